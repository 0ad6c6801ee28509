"""Binary layers, operations, cells and networks, and what they cost."""
