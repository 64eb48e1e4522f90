"""Uploads: read from forms, hashed, and stored where a worker reads them."""
