"""User code, for the type checker."""
