"""The clouds' libraries are an extra: imported when a destination is made, named when they are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from klyra_siem import azure_monitor, cloudwatch, google_cloud_logging
from klyra_siem.errors import MissingExtra
from support.siem.cloud import options

MADE = {
    "botocore.session": (cloudwatch.create, {"log_group": "g", "region": "eu-west-1"}),
    "azure.identity": (azure_monitor.create, {"data_collection_rule": "dcr-1"}),
    "google.auth": (google_cloud_logging.create, {"project": "my-project"}),
}
LIBRARIES = ("botocore", "azure.identity", "google.auth")


@pytest.mark.parametrize("module", sorted(MADE))
def test_a_missing_library_is_named(monkeypatch, module) -> None:
    """Whoever chooses such a destination is told what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    factory, settings = MADE[module]
    with pytest.raises(MissingExtra) as caught:
        factory(options("https://example.com", settings))
    assert (caught.value.code, caught.value.remedy) == ("missing_extra", "Install klyra-audit[siem].")


def test_nothing_is_imported_before_it_is_needed() -> None:
    """A collector with other destinations pays neither memory nor time for them."""
    program = (
        "import sys\n"
        "from klyra_siem import azure_monitor, cloudwatch, google_cloud_logging\n"
        f"print([name for name in {LIBRARIES!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
