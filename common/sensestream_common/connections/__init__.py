"""Connections to Redis: how they are opened, what passes, and how scripts travel."""
