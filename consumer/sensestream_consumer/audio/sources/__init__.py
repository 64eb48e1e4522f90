"""Where audio comes from: an opener for each scheme, under one policy."""
