"""Fixtures for all tests: a real redis-server for each test that asks for one."""
