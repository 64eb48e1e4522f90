"""Webhooks: outcomes sent to URLs that the callers name."""
