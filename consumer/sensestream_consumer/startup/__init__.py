"""What a worker checks and loads before it joins its group."""
