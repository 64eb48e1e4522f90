"""What a worker records on the way: stage timings, counters, log lines, spans."""
