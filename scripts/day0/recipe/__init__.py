"""Quantization recipes and what they resolve to."""
