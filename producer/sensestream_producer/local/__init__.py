"""Processes on this machine: an embedded Redis and a worker."""
