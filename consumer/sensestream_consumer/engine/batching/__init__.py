"""Clips of many requests that run together in one session."""
