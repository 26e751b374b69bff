"""Compares what a SIEM says it has with the ledger, entry by entry."""
