"""The source model: its folder, tensors and side files."""
