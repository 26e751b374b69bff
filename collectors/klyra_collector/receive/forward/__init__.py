"""Fluent Forward: from a connection to sealed entries, and back to acknowledgements."""
