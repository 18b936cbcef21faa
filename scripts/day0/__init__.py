"""Decisions and data types of the release graph.

Imports no snakemake, torch or vllm, so that it runs in every stage environment.
"""
