"""Openers of references, one for each scheme, under one policy."""
