"""Faults on purpose, and the count of what they did: see README.md beside this file."""
