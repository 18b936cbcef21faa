"""The assessment of an exported checkpoint: formats, coverage, scales, size, metadata, engine."""
