"""Engines: compiled for one device, kept in files, trusted only after a check."""
