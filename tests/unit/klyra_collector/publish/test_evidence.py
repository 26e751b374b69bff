from __future__ import annotations

import base64
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import frame, sections
from klyra_audit.format import policy as policies
from klyra_audit.format.batch import BatchNote, Evidence
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.proof import TlogProof
from klyra_audit.format.sections import Salts, Sections
from klyra_collector.errors import LedgerDamaged
from klyra_collector.publish.bodies import find_body
from klyra_collector.publish.errors import NotPublished
from klyra_collector.publish.evidence import evidence_of
from support.ledgers import ACME, LedgerBuilder, large_ledger, put, small_ledger
from support.published import policy_text, write_published

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.publish.published import PublishedShard


def bodies_of(builder: LedgerBuilder) -> list[frame.BodyFrame]:
    """Return every body of a builder, by index."""
    return sorted((body for day in builder.bodies.values() for body in day), key=lambda body: body.index)


def erased(body: frame.BodyFrame) -> frame.BodyFrame:
    """Return a body whose actor is erased: salt and bytes are zeros."""
    assert body.sections.actor is not None
    parts = replace(body.sections, actor=bytes(len(body.sections.actor)))
    return replace(body, sections=parts, salts=replace(body.salts, actor=bytes(16)))


def change(builder: LedgerBuilder, body: frame.BodyFrame, changed: frame.BodyFrame) -> None:
    """Put another body in the place of one."""
    frames = builder.bodies[builder.day_of(body.index)]
    frames[frames.index(body)] = changed


def found(shard: PublishedShard, builder: LedgerBuilder, index: int) -> frame.BodyFrame | None:
    """Return the body of a leaf."""
    return find_body(shard.directory, index, Leaf.unpack(builder.leaves[index]))


def as_kept(body: frame.BodyFrame) -> frame.BodyFrame:
    """Return a body as it is read back: the salt of an absent section is not kept."""
    return frame.read_body(frame.encode_body(body), 0)[1]


class TestBodies:
    """A body is found wherever it lies."""

    def test_every_body_of_a_large_file_is_found(self, tmp_path: Path) -> None:
        """Also where the search goes through many megabytes, past the four bytes that begin a frame."""
        builder = LedgerBuilder().begin(ACME)
        for number in range(400):
            builder.event(ACME, metadata={"note": "KLB1" * (number % 900 + 100)})
        shard = write_published(builder, tmp_path).current()
        wanted = bodies_of(builder)
        assert [found(shard, builder, body.index) for body in wanted] == list(map(as_kept, wanted))

    def test_a_moved_body_is_found(self, tmp_path: Path) -> None:
        """Extended bodies stand in the file of a later day behind younger ones, held ones in a file of their own."""
        builder = large_ledger(600)
        moved = bodies_of(builder)[3:5]
        for body in moved:
            builder.bodies[builder.day_of(body.index)].remove(body)
        later = max(builder.bodies) + 5
        builder.bodies[later] = [*builder.bodies.pop(max(builder.bodies)), moved[0]]
        shard = write_published(builder, tmp_path).current()
        put(shard.directory.bodies / "held" / "frames", frame.encode_body(moved[1]))
        assert [found(shard, builder, body.index) for body in moved] == list(map(as_kept, moved))

    def test_a_body_that_is_gone_is_none(self, tmp_path: Path) -> None:
        """Its day's file was unlinked, or it is not in it."""
        builder = small_ledger()
        shard = write_published(builder, tmp_path).current()
        first, second = bodies_of(builder)[:2]
        (shard.directory.bodies / str(builder.day_of(first.index)) / "frames").unlink()
        os.truncate(shard.directory.bodies / str(builder.day_of(second.index)) / "frames", 40)
        assert found(shard, builder, first.index) is None
        assert found(shard, builder, second.index) is None


class TestEvidence:
    """What is given out proves the entry to somebody who has nothing but the policy."""

    def test_an_entry_is_proved(self, tmp_path: Path) -> None:
        """Sections and salts give the leaf's commit, and the proof file leads from the leaf to the checkpoint."""
        builder = small_ledger()
        index = builder.about_user(ACME)
        shard = write_published(builder, tmp_path).current()
        evidence = evidence_of(shard, index)
        assert evidence is not None
        document = evidence.document()
        leaf = base64.b64decode(document["leaf"])
        opened = {
            name: sections.section_commitment(name, base64.b64decode(part["salt"]), part["canonical"].encode())
            for name, part in document["sections"].items()
        }
        assert sections.Commitments(**opened).event_commit() == Leaf.unpack(leaf).commit
        proof = TlogProof.parse(document["tlog_proof"].encode())
        assert proof.verify(leaf, policies.parse(policy_text())).checkpoint.origin == document["log"] == builder.origin
        assert (proof.index, document["index"], document["batch"]) == (index, index, None)

    def test_an_erased_section_is_only_committed_to(self, tmp_path: Path) -> None:
        """And an absent one is null."""
        builder = small_ledger()
        body = bodies_of(builder)[0]
        change(builder, body, erased(body))
        evidence = evidence_of(write_published(builder, tmp_path).current(), body.index)
        assert evidence is not None
        parts = evidence.document()["sections"]
        assert parts["actor"] == {"c": base64.b64encode(body.commitments.actor).decode()}
        assert parts["target"] is None
        assert parts["core"]["canonical"].startswith("{")

    def test_the_emitters_signature_is_given_out(self, tmp_path: Path) -> None:
        """The batch's note, the event's position and its path, as they are kept with the body."""
        builder, key = small_ledger(), SigningKey.from_seed("api-1", b"\x01" * 32)
        body = bodies_of(builder)[0]
        commit = body.commitments.event_commit()
        batch = BatchNote.over("api-1", "0192d1f0-0000-7000-8000-000000000001", 0, [commit])
        text = batch.text()
        kept = Evidence(f"{text}\n{key.signature_line(text)}".encode(), 0, ())
        change(builder, body, replace(body, attachment=kept.encode()))
        evidence = evidence_of(write_published(builder, tmp_path).current(), body.index)
        assert evidence is not None
        given = Evidence.of_document(evidence.document()["batch"])
        assert given.verify(commit, key.verifying_key) == batch

    def test_what_is_not_what_was_sealed_is_damage(self, tmp_path: Path) -> None:
        """A changed section and a changed signature are never handed out as evidence."""
        for spoil in (
            lambda body: replace(body, sections=Sections(body.sections.core + b" ", body.sections.actor)),
            lambda body: replace(body, salts=Salts.draw()),
            lambda body: replace(body, attachment=b"{}"),
        ):
            builder = small_ledger()
            body = bodies_of(builder)[0]
            change(builder, body, spoil(body))
            shard = write_published(builder, tmp_path).current()
            with pytest.raises(LedgerDamaged) as caught:
                evidence_of(shard, body.index)
            assert caught.value.code == "ledger_damaged"
            assert "klyra-audit verify" in caught.value.remedy

    def test_an_entry_without_checkpoint_or_body_has_no_evidence(self, tmp_path: Path) -> None:
        """The first is not published yet, the second never again."""
        builder = small_ledger()
        first = bodies_of(builder)[0]
        del builder.bodies[builder.day_of(first.index)]
        last = len(builder.leaves) - 1
        shard = write_published(builder, tmp_path, signed=last).current()
        assert evidence_of(shard, first.index) is None
        with pytest.raises(NotPublished):
            evidence_of(shard, last)
