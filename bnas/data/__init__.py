"""Pictures to mini-batches: folders, splits, augmentation, readers."""
