"""Make a ledger that was lost again, out of what a store keeps of it."""
