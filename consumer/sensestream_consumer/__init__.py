"""The worker of a Sensestream pipeline."""
