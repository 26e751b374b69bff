"""Elasticsearch as a store: data streams by retention policy, written append-only behind the ledger."""
