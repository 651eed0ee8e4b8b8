"""Heads: what the outputs of each family of models mean."""
