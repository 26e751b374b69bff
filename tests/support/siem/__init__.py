"""Far sides of destinations: strict, scripted, on loopback."""
