"""Tell containers apart, and find recordings and their sound in them."""
