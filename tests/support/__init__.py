"""What several test modules need: shared assets, small graphs, a started server."""
