"""Bytes to images, within limits. Knows no model and no HTTP route."""
