"""What several of these tests need and only starts once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import elasticsearch
from support.elasticsearch import Node

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def cluster() -> Iterator[Node]:
    """A node with security, data streams and lifecycle policies; tests use names or collectors of their own."""
    if elasticsearch.front() is None:
        pytest.skip("for want of elasticsearch_front")
    with elasticsearch.guarded() as node:
        yield node
