"""From a packed network to C for microcontrollers."""
