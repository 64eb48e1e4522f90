"""Bytes to samples."""
