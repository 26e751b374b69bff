"""What organizations may set up for themselves."""
