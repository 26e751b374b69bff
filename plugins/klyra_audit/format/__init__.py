"""Pure functions on the bytes outsiders verify (KL1, DESIGN section 5): no I/O, no clock, no configuration."""
