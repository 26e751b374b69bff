"""Example traffic: believable people and programs that use the example moderation service."""
