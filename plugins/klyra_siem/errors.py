"""Errors of making a destination; what the network does is an `Outcome`, never an error.

Paused
├── BadDestination  its settings cannot be used
└── MissingExtra    a library of the extra `siem` is not installed
"""

from __future__ import annotations

from klyra_audit.errors import Paused


class BadDestination(Paused):
    """A destination's settings cannot be used."""

    code = "bad_destination"


class MissingExtra(Paused):
    """A library of the extra `siem` is not installed."""

    code = "missing_extra"
