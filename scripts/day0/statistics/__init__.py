"""Paired statistics, and what a number of samples can show."""
