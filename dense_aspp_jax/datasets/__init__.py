"""Data sets: how they are prepared and stored, their splits, the cache, and batches."""
