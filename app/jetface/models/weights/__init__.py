"""Weights files: where they come from, whether they are the right ones, what one may do with them."""
