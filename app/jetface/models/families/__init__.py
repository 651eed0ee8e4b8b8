"""Families: what goes into a graph, and what its answers mean."""
