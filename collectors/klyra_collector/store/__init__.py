"""Stores: where entries are searched, each a follower of the ledger (DESIGN section 8)."""
