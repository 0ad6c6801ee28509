"""The DVC stages: parameters in, one call into `bnas`, files out."""
