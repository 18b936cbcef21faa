"""Decisions and data types of the release graph.

Imports no snakemake, torch or vllm, so that it runs in every stage environment.
"""

import gc

gc.set_threshold(100_000)  # imports and records are no garbage: 700, the default, collects a hundred times in a start
