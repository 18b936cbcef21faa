"""The evaluation stage: harnesses, results, run folders, imported runs."""
