"""Errors of reading what a SIEM has exported.

Rejected
├── ExportUnreadable  it is no export that can be read, or it ends in its middle
└── ExportEmpty       it has no rows: that says nothing about what is there
"""

from __future__ import annotations

from klyra_audit.errors import Rejected


class ExportUnreadable(Rejected):
    """An export cannot be read to its end."""

    code = "export_unreadable"


class ExportEmpty(Rejected):
    """An export has no rows."""

    code = "export_empty"
