"""Validate: decide whether an event may be sealed, and say exactly why not (DESIGN section 4)."""
