"""The contract of a Sensestream pipeline."""

__version__ = "0.1.0"
