"""The client side of a Sensestream pipeline."""
