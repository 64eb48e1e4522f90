"""What a worker writes on the way: stage timings, counters, log lines, spans."""
