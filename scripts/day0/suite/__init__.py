"""Evaluation suites, their tasks, harnesses and needs."""
