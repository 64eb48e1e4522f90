"""What a model directory holds, and whether it is a model this engine runs."""
