"""Fluent Forward v1 as pure functions on bytes, shared by the collector's receiver and our client. No sockets here."""
