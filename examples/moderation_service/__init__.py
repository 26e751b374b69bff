"""A small moderation service whose every action is an entry of its audit log."""
