"""Files on disk: atomic writes, locks, checkpoints, caches, weights."""
