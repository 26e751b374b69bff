"""What the engine does about each failure of each vendor is what `docs/destinations/faults.md` says.

Every failure is made to happen to the real engine with a real ledger; the document is the table of what it did.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.certificates import Authority
from support.siem.cloud_server import Reply, serving
from support.siem.fault_matrix import MAIN, Bad, Cell, addresses, cases, numbered, own_cases, parsed, update
from support.siem.vendors import LIBRARIES, VENDORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.siem.vendors import Vendor

for library in LIBRARIES:
    pytest.importorskip(library, reason=f"for want of {library}")

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "destinations" / "faults.md"
WRITE = "WRITE_TABLES"
COMMAND = f"{WRITE}=1 .venv/bin/python -m pytest tests/integration/test_fault_matrix.py"
ACKNOWLEDGED = "splunk, acknowledged"
ON_ASKING = "splunk, asked for its acknowledgement"  # the same failures, one request later
ANSWER = "the engine"
INTRODUCTION = f"""# What each failure of each destination leads to

Made by tests/integration/test_fault_matrix.py, which has each failure happen to the engine while it delivers a batch of
two entries of a real ledger, and then lets all be well again. To write it anew:

```sh
{COMMAND}
```

| word | what that is |
|--|--|
| `retry` | the same bytes again after a random wait of up to 60 s, without end |
| `retry as asked` | the same, after the `Retry-After` that was given, an hour at most |
| `bisect` | the batch goes again in halves; an entry that is refused alone becomes a dead letter |
| `pause` | an alarm for the operator; the cursor stays, the same batch is tried again every `paused_seconds` |
| `dead letter` | the entry is named on disk with this status, and the cursor moves on; it stays in the ledger |
| `restamp` | sent under the time of sending, its own stays in the record |
| `delivered` | the destination has confirmed; nothing else moves the cursor |

`2 copies`: the entries are there twice in the end, which no vendor here can prevent, and whose
[page](README.md) says how to search without them. `taken and not kept`: the vendor says that all is well, and an
operator who chose `preserve` has chosen that. Everything else is there once, or a dead letter.
A column without a failure (`-`) has no such thing.
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Iterator[Bad]:
    """Addresses at which nobody answers as we want."""
    files = Authority(tmp_path_factory.mktemp("stranger"), "stranger").issue("stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with serving(lambda _: Reply(200), context) as server:
        yield addresses(server.url)


@pytest.fixture(scope="module", params=sorted(VENDORS))
def vendor(request) -> Iterator[Vendor]:
    """A vendor's service."""
    with VENDORS[request.param]() as made:
        yield made


@pytest.fixture
def folder(tmp_path) -> Callable[[], Path]:
    """A new folder on each call."""
    return numbered(tmp_path)


def compare(section: str, column: str, rows: dict[str, str]) -> None:
    """Compare a column of the document with what was found; write it if that is wanted."""
    if os.environ.get(WRITE):
        update(DOCUMENT, INTRODUCTION, section, column, rows)
    written = parsed(DOCUMENT.read_text()).get(section, {}).get(column)
    assert written == rows, f"{DOCUMENT.name} is not what this run found; write it anew with {COMMAND}"


def test_the_failures_that_all_have(vendor, bad, folder) -> None:
    """The vendor's column of the first table is what happens."""
    found = {words: Cell(folder(), vendor, case).told() for words, case in cases(vendor, bad).items()}
    compare(MAIN, vendor.kind, found)


def test_what_a_vendor_says_itself(vendor, folder) -> None:
    """The vendor's own table is what happens."""
    found = {words: Cell(folder(), vendor, case).told() for words, case in own_cases(vendor.kind).items()}
    compare(vendor.kind, ANSWER, found)


def test_asking_for_an_acknowledgement_fails(bad, folder) -> None:
    """What happens if Splunk takes a batch and then fails to say whether it was indexed."""
    with VENDORS[ACKNOWLEDGED]() as made:
        chosen = {words: case for words, case in cases(made, bad).items() if case.faults}
        found = {words: Cell(folder(), made, case, before=1).told() for words, case in chosen.items()}
    compare(MAIN, ON_ASKING, found)


def test_the_document_has_nothing_else() -> None:
    """Every table and column is one that a test above finds; the introduction is this one."""
    tables = parsed(DOCUMENT.read_text())
    own = {section: sorted(columns) for section, columns in tables.items() if section != MAIN}
    assert own == {kind: [ANSWER] for kind in VENDORS}
    assert sorted(tables[MAIN]) == sorted((*VENDORS, ON_ASKING))
    assert DOCUMENT.read_text().startswith(INTRODUCTION)
