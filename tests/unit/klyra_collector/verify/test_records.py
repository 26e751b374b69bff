"""What is sealed and signed, and still not as it should be: chains, clock, plan, organization, unknown kinds."""

from __future__ import annotations

import os

import pytest

from klyra_audit.format import canonical, sections
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.sections import Sections
from klyra_collector.verify import Verdict
from support.ledgers import ACME, DAY_US, RETENTION, UMBRELLA, LedgerBuilder
from support.tampering import at, found

V = Verdict


@pytest.fixture
def builder() -> LedgerBuilder:
    """A ledger with one event, to go on with."""
    started = LedgerBuilder().begin(ACME, UMBRELLA)
    started.event(ACME)
    return started


@pytest.fixture
def judge(tmp_path, verify):
    """Write a ledger, verify it, and return what was found and the exit status."""

    def run(builder, **options):
        report = verify(builder.write(tmp_path / "data"), builder, **options)
        return found(report), report.exit_status

    return run


def replace_last(builder: LedgerBuilder, **fields) -> int:
    """Change fields of the last leaf before it is signed; nothing after it points back to it yet."""
    builder.leaves[-1] = Leaf.unpack(builder.leaves[-1])._replace(**fields).pack()
    return len(builder.leaves) - 1


class TestChains:
    """Every record points back to its organization's record before it."""

    @pytest.mark.parametrize("fields", [{"org_seq": 1}, {"org_seq": 9}, {"org_prev": bytes(32)}])
    def test_a_leaf_that_does_not_continue_breaks_the_chain(self, builder, judge, fields) -> None:
        """That record is named, and only that one."""
        builder.event(ACME)
        index = replace_last(builder, **fields)
        assert judge(builder) == ({at(V.ORG_CHAIN, index)}, 1)

    def test_a_chain_goes_on_behind_a_break(self, builder, judge) -> None:
        """One break is one finding, whatever follows."""
        index = builder.event(ACME)
        chain = builder._chains[builder.reference(ACME)]
        builder._chains[builder.reference(ACME)] = (chain[0] + 5, chain[1])
        broken = builder.event(ACME)
        builder.event(ACME)
        assert judge(builder) == ({at(V.ORG_CHAIN, broken)}, 1)
        assert broken == index + 1

    def test_an_event_of_another_organization_than_its_core_says(self, builder, judge) -> None:
        """The leaf's org_ref is recomputed from the organization that the core names."""
        index = builder.event(UMBRELLA, days=RETENTION[ACME])
        body = builder.bodies[builder.day_of(index)][-1]
        stolen = LedgerBuilder().begin(ACME, UMBRELLA)
        stolen.leaf(Kind.EVENT, ACME, body.commitments.event_commit(), flags=2, expire_day=builder.day_of(index))
        moved = len(stolen.leaves) - 1
        stolen.bodies = {builder.day_of(index): [body.__class__(moved, body.sections, body.salts, body.commitments)]}
        assert judge(stolen) == ({at(V.ORG_CHAIN, moved)}, 1)

    def test_an_operators_event_is_the_operators(self, builder, judge) -> None:
        """Sixteen zero bytes are the operator's org_ref, and no salt is in it."""
        builder.policy("operator", 365)
        builder.event("operator", days=365)
        assert judge(builder) == (set(), 0)

    def test_an_event_that_names_no_organization(self, builder, judge) -> None:
        """Nobody's event is in somebody's chain."""
        index = builder._body(Kind.EVENT, ACME, Sections(b"{}"), None)
        assert judge(builder) == ({at(V.ORG_CHAIN, index)}, 1)

    def test_a_control_document_in_another_chain_than_it_names(self, builder, judge) -> None:
        """A POLICY of one organization sealed in the chain of another."""
        named = builder.reference(UMBRELLA).hex()
        plan = {"type": "policy", "plan": "enterprise", "policy": "enterprise", "retention_days": 365}
        index = builder.control(Kind.POLICY, plan | {"org_ref": named}, ACME)
        assert judge(builder) == ({at(V.ORG_CHAIN, index)}, 1)


class TestClockAndPlan:
    """Time does not go back, and nothing is kept for another time than was agreed."""

    def test_time_that_goes_back_is_named_once(self, builder, judge) -> None:
        """The record that is too early; those behind it are judged by it."""
        builder.now_us -= 60_000_000
        index = builder.event(ACME)
        builder.event(ACME)
        assert judge(builder) == ({at(V.CLOCK, index)}, 1)

    @pytest.mark.parametrize("days", [0, 29, 31, 365])
    def test_another_retention_than_the_policys(self, builder, judge, days) -> None:
        """Shorter or longer."""
        index = builder.event(ACME, days=days)
        assert judge(builder) == ({at(V.PLAN_MISMATCH, index)}, 1)

    def test_the_policy_in_force_is_the_last_one_before_the_event(self, builder, judge) -> None:
        """A change of plan holds from its record on."""
        builder.policy(ACME, 90)
        builder.event(ACME, days=90)
        late = builder.event(ACME, days=30)
        assert judge(builder) == ({at(V.PLAN_MISMATCH, late)}, 1)

    def test_an_event_without_a_policy(self, judge) -> None:
        """A policy is sealed before the first event."""
        bare = LedgerBuilder().begin()
        index = bare.event(ACME)
        assert judge(bare) == ({at(V.PLAN_MISMATCH, index)}, 1)

    def test_a_control_record_that_expires(self, builder, judge) -> None:
        """Control records are kept for ever."""
        index = builder.control(Kind.SCHEMA, {"type": "schema", "id": "x", "sha256": "00" * 32})
        replace_last(builder, expire_day=builder.now_us // DAY_US)
        assert judge(builder) == ({at(V.PLAN_MISMATCH, index)}, 1)


class TestWhatIsNotKnown:
    """What this verifier does not understand is never counted as intact."""

    @pytest.mark.parametrize("kind", [14, 255])
    def test_an_unknown_kind(self, builder, judge, kind) -> None:
        """Its chain goes on behind it."""
        index = builder.leaf(kind, ACME, bytes(32))
        builder.event(ACME)
        assert judge(builder) == ({at(V.UNVERIFIABLE, index)}, 2)

    def test_an_unknown_version(self, builder, judge) -> None:
        """Nothing of its layout is known; its chain may go on behind it all the same."""
        index = builder.leaf(Kind.HEADS, ACME, bytes(32))
        encoded = b"\x02" + builder.leaves[index][1:]
        builder.leaves[index] = encoded
        chain = builder._chains[builder.reference(ACME)]
        from klyra_audit.format.merkle import leaf_hash

        builder._chains[builder.reference(ACME)] = (chain[0], leaf_hash(encoded))
        builder.event(ACME)
        assert judge(builder) == ({at(V.UNVERIFIABLE, index)}, 2)

    def test_a_reserved_flag(self, builder, judge) -> None:
        """The record is followed, and not vouched for."""
        builder.event(ACME)
        index = replace_last(builder, flags=0x8000 | 2)
        assert judge(builder) == ({at(V.UNVERIFIABLE, index)}, 2)

    def test_a_policy_that_cannot_be_understood(self, builder, judge) -> None:
        """No plan is judged by it."""
        document = {"type": "policy", "org_ref": builder.reference(ACME).hex(), "retention_days": "30"}
        index = builder.control(Kind.POLICY, document, ACME)
        builder.event(ACME, days=77)
        assert judge(builder) == ({at(V.UNVERIFIABLE, index)}, 2)


class TestOrgSalt:
    """Organizations can only be checked with the salt that START commits to."""

    def test_a_wrong_salt_is_no_alarm(self, builder, judge) -> None:
        """It says what to do, and nothing counts as intact."""
        findings, status = judge(builder, org_salt=os.urandom(32))
        assert (findings, status) == ({(V.UNVERIFIABLE, None, None)}, 2)

    def test_without_a_salt_nothing_is_intact(self, builder, tmp_path, verify) -> None:
        """A copy without keys/ needs --org-salt."""
        root = builder.write(tmp_path / "data")
        (root / "keys" / "org-salt").unlink()
        shard = verify(root, builder).shards[0]
        assert (shard.verdict, shard.counts[V.OK]) == (V.UNVERIFIABLE, 0)
        assert "--org-salt" in shard.findings[0].meaning
        assert verify(root, builder, org_salt=builder.org_salt).exit_status == 0

    def test_a_start_with_another_salt(self, builder, judge) -> None:
        """A ledger's salt never changes."""
        start = {"type": "start", "software": "test", "clock_source": "synchronised", "recovered": None}
        builder.control(Kind.START, start | {"org_salt_sha256": "00" * 32})
        assert judge(builder) == ({(V.UNVERIFIABLE, None, None)}, 2)

    def test_no_start_at_all(self, judge) -> None:
        """There is nothing to check the salt with."""
        bare = LedgerBuilder()
        bare.policy(ACME, 30)
        bare.event(ACME)
        assert judge(bare)[1] == 2


class TestContents:
    """What was sealed must be what its kind says."""

    @pytest.mark.parametrize(
        "core",
        [
            b'{"organization_id": "org_acme"}',
            b'{"organization_id":"org_acme","x":1.5}',
            b'{"organization_id":"org_acme","organization_id":"org_acme"}',
            b"[]",
            b"\xff",
        ],
    )
    def test_a_core_that_is_not_canonical(self, builder, judge, core) -> None:
        """Even if the leaf commits to it."""
        index = builder._body(Kind.EVENT, ACME, Sections(core), None)
        assert judge(builder) == ({at(V.ALTERED, index)}, 1)

    def test_sections_that_do_not_join(self, builder, judge) -> None:
        """The actor's section has a pointer that core has already."""
        core = canonical.encode({"organization_id": ACME, "actor": {"id": "a"}})
        index = builder._body(Kind.EVENT, ACME, Sections(core, b'{"/actor/id":"b"}'), None)
        assert judge(builder) == ({at(V.ALTERED, index)}, 1)

    def test_a_joined_document_outside_the_profile(self, builder, judge) -> None:
        """Each section fits, the document is nested too deeply."""
        nested = {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}
        core = canonical.encode({"organization_id": ACME, "metadata": {"x": {}}})
        parts = Sections(core, canonical.encode({"/metadata/x/y": nested["a"]}, max_key_characters=1024))
        index = builder._body(Kind.EVENT, ACME, parts, None)
        assert judge(builder) == ({at(V.ALTERED, index)}, 1)

    def test_flags_that_speak_of_other_sections(self, builder, judge) -> None:
        """The leaf says there is a target section."""
        builder.event(ACME)
        index = replace_last(builder, flags=6)
        assert judge(builder) == ({at(V.ALTERED, index)}, 1)

    @pytest.mark.parametrize(
        "core",
        [
            {"reason": "x", "pointer": "", "sha256": "00" * 32},
            {"reason": "x", "pointer": "", "sha256": "00" * 31, "size": 1},
            {"reason": "x", "pointer": "", "sha256": "zz" * 32, "size": 1},
            {"reason": "x", "pointer": "", "sha256": "AA" * 32, "size": 1},
            {"reason": "x", "pointer": "", "sha256": "00" * 32, "size": "1"},
        ],
    )
    def test_a_core_that_is_no_quarantine_core(self, builder, judge, core) -> None:
        """It has exactly reason, pointer, sha256 and size."""
        index = builder._body(Kind.QUARANTINE, ACME, Sections(canonical.encode(core)), None)
        assert judge(builder) == ({at(V.ALTERED, index)}, 1)

    @pytest.mark.parametrize("encoded", [b'{"type": "schema"}', b"{", b'{"type":"policy"}', b"{}"])
    def test_a_control_document_of_another_kind_or_form(self, builder, judge, encoded) -> None:
        """Even if the leaf commits to it."""
        index = builder.leaf(Kind.SCHEMA, "operator", sections.control_commit(encoded))
        builder.controls.append(BlobFrame(index, encoded))
        assert judge(builder) == ({at(V.CONTROL_ALTERED, index)}, 1)

    def test_an_altered_policy_is_only_said_once(self, builder, tmp_path, verify) -> None:
        """Its leaf was changed; plans are judged by its document, chains go on over its hash."""
        index = builder.policy(ACME, 90)
        builder.event(ACME, days=90)
        root = builder.write(tmp_path / "data")
        leaves = root / "ledger/2026/leaves"
        content = bytearray(leaves.read_bytes())
        content[index * LEAF_SIZE + 8] ^= 1
        leaves.write_bytes(content)
        assert found(verify(root, builder)) == {(V.ROOT_MISMATCH, None, None), at(V.ALTERED, index)}
