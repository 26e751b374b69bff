"""Elasticsearch as the home of the logs (DESIGN section 8)."""
