"""The recipe search: which candidates there are, which to ask next, and which one wins."""
