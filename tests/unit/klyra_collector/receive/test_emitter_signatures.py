"""What emitters sign, as it comes with each event: opened once, under the keys of the emitter it is checked for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from klyra_audit.errors import InvalidEvent
from klyra_audit.format.keys import SigningKey
from klyra_audit.otlp import BATCH, COMMITS, EmitterIdentity
from klyra_audit.signing import NoteSigner
from klyra_audit.spool.segment import SpooledEvent
from klyra_collector.receive import emitter_signatures
from klyra_collector.receive.emitter_signatures import EmitterSignatures
from klyra_collector.stages import EmitterPosition
from support.otlp import BOOT
from support.records import STARTUP, record

NAME = "payments"
KEY = SigningKey.from_seed(NAME, bytes(range(32)))
STRANGER = SigningKey.from_seed(NAME, bytes(range(1, 33)))


def known(key: SigningKey):
    """Return the registry's word of a key in force."""
    return SimpleNamespace(vkey=str(key.verifying_key), organization_id=None, revoked_at=None)


@pytest.fixture
def records():
    """Three events of one boot."""
    return [record(position=EmitterPosition(NAME, BOOT, number)) for number in range(3)]


@pytest.fixture
def resource(records) -> dict:
    """What their emitter signed."""
    events = [
        SpooledEvent(number, SimpleNamespace(commit=item.commitments.event_commit()))
        for number, item in enumerate(records)
    ]
    identity = EmitterIdentity("s", NAME, BOOT, STARTUP.organization_id)
    signed = NoteSigner(KEY, NAME).sign(identity, events)
    return {BATCH: signed.note.decode(), COMMITS: signed.commits}


def test_a_batch_that_every_event_brings_along_is_opened_once(records, resource, monkeypatch) -> None:
    """As over Forward, where each entry has attributes of its own."""
    opened = []
    real = emitter_signatures._open
    monkeypatch.setattr(emitter_signatures, "_open", lambda *said: opened.append(said) or real(*said))
    checking = EmitterSignatures()
    evidence = {checking.evidence(item, dict(resource), [known(KEY)]) for item in records}
    assert (len(evidence), len(opened)) == (3, 1)


def test_what_one_key_vouches_for_another_does_not(records, resource) -> None:
    """Whoever else's keys the same bytes were checked with before."""
    checking = EmitterSignatures()
    assert checking.evidence(records[0], resource, [known(KEY)])
    with pytest.raises(InvalidEvent, match="no key in force") as caught:
        checking.evidence(records[0], resource, [known(STRANGER)])
    assert caught.value.code == "emitter_signature"


@pytest.mark.parametrize("wrong", [{BATCH: ["x"]}, {COMMITS: {"x": 1}}, {COMMITS: b"short"}, {COMMITS: "text"}])
def test_attributes_of_another_kind_are_no_signature(records, resource, wrong) -> None:
    """They cost their event alone."""
    with pytest.raises(InvalidEvent, match="no signed batch") as caught:
        EmitterSignatures().evidence(records[0], resource | wrong, [known(KEY)])
    assert caught.value.code == "emitter_signature"


def test_no_signature_is_said(records) -> None:
    """Of an emitter with a key."""
    with pytest.raises(InvalidEvent, match="is not signed"):
        EmitterSignatures().evidence(records[0], {}, [known(KEY)])
