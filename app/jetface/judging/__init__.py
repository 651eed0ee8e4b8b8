"""Judges of precision: whether a cast or quantized model still answers as FP32 does."""
