"""What operators do: status, pending requests, dead letters, results, doctor."""
