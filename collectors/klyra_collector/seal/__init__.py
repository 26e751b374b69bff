"""Seal: make validated events durable in the signed ledger, then acknowledge (DESIGN section 5)."""
