"""The query API: search, export and the built-in page over a store (DESIGN section 7)."""
