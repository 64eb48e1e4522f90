"""Watching a worker: what it counts, how it does, and the HTTP endpoint that tells."""
