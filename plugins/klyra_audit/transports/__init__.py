"""Ways to a collector. A transport sends what it is given and tells the truth about what became of it."""
