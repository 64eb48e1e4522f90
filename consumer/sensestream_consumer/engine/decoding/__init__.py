"""From the model's output to text, words and confidence."""
