"""Outcomes on their way to the caller: waiting, following, listening."""
