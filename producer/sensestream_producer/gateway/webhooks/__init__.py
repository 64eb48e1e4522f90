"""Outcomes sent to the callers' own servers."""
