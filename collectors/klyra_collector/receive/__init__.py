"""Receive: from bytes on the wire to records, with the answers each protocol's clients need (DESIGN section 6)."""
