"""The registry: organizations, keys, sessions, and the outbox of what the product tells the log about itself."""

from klyra_collector.registry.registry import Registry

__all__ = ["Registry"]
