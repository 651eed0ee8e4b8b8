"""Arithmetic of boxes, landmarks and canvases. Pure functions of arrays: no state, no files, no models."""
