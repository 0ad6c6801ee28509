"""The training loop, ranks that share it, and networks trained side by side."""
