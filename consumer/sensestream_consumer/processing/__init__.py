"""One request's way from its stream entry to its outcome."""
