"""The ledger's public face: what is under a published checkpoint, read without locks from any process."""
