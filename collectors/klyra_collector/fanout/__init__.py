"""Copies of sealed entries to destinations, each behind a durable cursor of its own."""
