"""The wire contract: requests, outcomes, transcripts, keys, errors."""
