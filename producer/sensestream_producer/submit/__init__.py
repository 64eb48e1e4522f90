"""Requests on their way in: submitted in batches, or answered from the cache."""
