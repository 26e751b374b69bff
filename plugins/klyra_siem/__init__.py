"""Destinations that sealed entries are copied to: one module each, one contract (`klyra_siem.destination`)."""
