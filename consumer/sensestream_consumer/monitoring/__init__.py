"""Metrics, health and readiness of a worker, read when they are asked for."""
