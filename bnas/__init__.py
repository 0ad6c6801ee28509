"""Binary neural networks found by evolutionary multi-objective architecture search."""
