"""The configuration in docs/forward.md can be used as it stands."""

from __future__ import annotations

import re
import tomllib

from klyra_audit.catalog import Catalog
from klyra_collector.config import Settings


def test_the_documented_configuration_is_valid(repository) -> None:
    """Every setting exists, and every event type named is in the catalog."""
    [block] = re.findall(r"^```toml\n(.*?)^```", (repository / "docs/forward.md").read_text(), re.MULTILINE | re.DOTALL)
    settings = Settings(**tomllib.loads(block)).forward
    assert [client.user for client in settings.clients] == ["billing"]
    assert settings.tls is not None
    catalog = Catalog.load()
    assert [name for name in settings.event_types.values() if catalog.get(name) is None] == []
