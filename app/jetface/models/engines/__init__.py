"""Models on engines: built, checked, opened, put into service."""
