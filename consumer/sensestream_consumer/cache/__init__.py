"""The result cache as one worker uses it."""
