"""Uploaded bytes on their way from a form to where a worker reads them."""
