"""From any other program's log record to an event document (DESIGN section 6)."""
