"""The small parts of delivery: waits, batches, dead letters, kinds, and whose entries they are."""

from __future__ import annotations

import contextlib
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from klyra_audit.catalog import Catalog
from klyra_audit.errors import RetryLater
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID, organization_reference
from klyra_collector.backoff import Backoff
from klyra_collector.dead_letters import DeadLetter, DeadLetters
from klyra_collector.destination_kinds import make_destination
from klyra_collector.fanout.batching import Gathering
from klyra_collector.fanout.entitlement import (
    FRESH_SECONDS,
    OPERATOR_REFERENCE,
    REFRESH_SECONDS,
    Entitlement,
    NotEntitled,
)
from klyra_collector.fanout.source import Found
from klyra_collector.registry import Registry
from klyra_collector.registry.policies import Policies
from klyra_collector.seal.durable import Disk
from klyra_siem.destination import Limits
from klyra_siem.errors import BadDestination
from klyra_siem.otlp import OtlpHttp
from support.collector import OPERATOR
from support.delivering import options

SALT = bytes(range(32))
AT_ONCE = SimpleNamespace(filed_ns=0)


class TestBackoff:
    """Full jitter."""

    def test_the_bound_doubles_up_to_the_longest(self) -> None:
        """Never more than a minute, however often it failed."""
        worst = Backoff(draw=lambda: 1.0)
        assert [worst.seconds(failures, None) for failures in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]

    def test_any_time_below_the_bound(self) -> None:
        """Senders that failed together do not come back together."""
        assert Backoff(draw=lambda: 0.25).seconds(3, None) == 1.0

    def test_never_less_than_asked_for(self) -> None:
        """The destination's word counts more than luck."""
        assert Backoff(draw=lambda: 0.0).seconds(1, 30.0) == 30.0
        assert Backoff(draw=lambda: 1.0).seconds(7, 30.0) == 60.0


class TestGathering:
    """Where a batch ends."""

    def test_by_count_and_by_bytes(self) -> None:
        """Whichever comes first; what does not fit begins the next."""
        by_count, by_bytes = (Gathering(Limits(entries=n, encoded_bytes=size), 0) for n, size in ((2, 100), (9, 25)))
        found = [Found(index, AT_ONCE, "") for index in range(3)]
        assert [by_count.add(one, 10) for one in found] == [True, True, False]
        assert [by_bytes.add(one, 10) for one in found] == [True, True, False]
        assert (by_count.end, by_count.is_full, len(by_bytes.entries)) == (2, True, 2)

    def test_what_is_not_delivered_takes_no_room(self) -> None:
        """Records of others between entries belong to the batch's span, and are counted."""
        gathered = Gathering(Limits(entries=1, encoded_bytes=10), 5)
        listed = [Found(5, None, "control"), Found(6, AT_ONCE, ""), Found(7, None, "control"), Found(8, AT_ONCE, "")]
        assert [gathered.add(one, 10) for one in listed] == [True, True, True, False]
        assert (gathered.end, gathered.skipped) == (8, {"control": 2})


class TestDeadLetters:
    """The file of what was refused for good."""

    @pytest.fixture
    def disk(self):
        """A disk."""
        with contextlib.closing(Disk()) as made:
            yield made

    def test_they_are_kept(self, tmp_path, disk) -> None:
        """Another process reads what was written, in order."""
        listed = [letter(number) for number in range(3)]
        file = DeadLetters(tmp_path, "back", disk)
        file.add(listed[:2])
        file.add(listed[2:])
        again = DeadLetters(tmp_path, "back", disk)
        assert (again.read(), len(again), len(file)) == (listed, 3, 3)

    def test_none_are_none(self, tmp_path, disk) -> None:
        """A destination that took everything has no file."""
        assert (DeadLetters(tmp_path, "back", disk).read(), list(tmp_path.iterdir())) == ([], [])

    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_a_line_that_a_crash_broke_off(self, tmp_path, disk, cut) -> None:
        """It is passed over, and what is written after it is whole."""
        DeadLetters(tmp_path, "back", disk).add([letter(0), letter(1)])
        path = tmp_path / "back.dead.ndjson"
        path.write_bytes(path.read_bytes()[:-cut])
        again = DeadLetters(tmp_path, "back", disk)
        again.add([letter(1), letter(2)])
        assert again.read() == [letter(number) for number in range(3)]

    def test_an_entry_counts_once(self, tmp_path, disk) -> None:
        """Around a crash the same letter may be written twice."""
        file = DeadLetters(tmp_path, "back", disk)
        file.add([letter(0)])
        file.add([letter(0)])
        assert (len(file), file.read()) == (1, [letter(0)])


def letter(index: int) -> DeadLetter:
    """Return a dead letter."""
    return DeadLetter(
        origin="log/c1/2026", index=index, entry_id=f"log_{index}", organization_id="org_a", status="400", refused_us=1
    )


class TestKinds:
    """Modules found by name."""

    def test_otlp_is_installed(self) -> None:
        """The built-in kind is found like anybody's."""
        with contextlib.closing(make_destination("otlp", options("http://127.0.0.1:1/"))) as made:
            assert isinstance(made, OtlpHttp)

    def test_others_may_add_theirs(self) -> None:
        """An entry point is all it takes."""
        point = EntryPoint("mine", "builtins:repr", "klyra_audit.destinations")
        assert "DestinationOptions" in make_destination("mine", options("x:"), [point])

    def test_an_unknown_kind(self) -> None:
        """Those that are installed are named."""
        with pytest.raises(BadDestination) as caught:
            make_destination("splonk", options("x:"))
        assert (caught.value.code, "otlp" in caught.value.remedy) == ("unknown_kind", True)


class TestEntitlement:
    """Whose entries are delivered."""

    @pytest.fixture
    def registry(self, tmp_path):
        """A registry with one organization a plan."""
        with contextlib.closing(Registry.open(f"sqlite:///{tmp_path}/registry.sqlite", Catalog.load())) as opened:
            for plan in ("startup", "business", "enterprise"):
                opened.create_organization(f"org_{plan}", plan, by=OPERATOR)
            yield opened

    @staticmethod
    def make(registry, *wanted: str, now=lambda: 0.0) -> Entitlement:
        """Return the entitlement of a destination."""
        return Entitlement(registry, Policies.load(), wanted=wanted, org_salt=lambda: SALT, clock=now)

    def test_everyone_whose_plan_allows_it(self, registry) -> None:
        """Without a list: all Enterprise organizations, and not the operator."""
        assert self.make(registry).references() == {organization_reference(SALT, "org_enterprise")}

    def test_a_list_narrows_and_never_widens(self, registry) -> None:
        """Naming an organization does not entitle it; the operator's own entries go where the operator is named."""
        assert self.make(registry, "org_business").references() == set()
        assert self.make(registry, OPERATOR_ORGANIZATION_ID).references() == {OPERATOR_REFERENCE}

    def test_a_plan_change_counts_soon(self, registry) -> None:
        """Half a minute later the registry is read again."""
        now = [0.0]
        entitlement = self.make(registry, now=lambda: now[0])
        before = entitlement.references()
        registry.set_plan("org_enterprise", "business", by=OPERATOR)
        assert entitlement.references() == before
        now[0] += FRESH_SECONDS
        assert entitlement.references() == set()

    def test_it_is_read_at_once_when_asked(self, registry) -> None:
        """At most once a second."""
        now = [0.0]
        entitlement = self.make(registry, now=lambda: now[0])
        assert entitlement.references()
        registry.set_plan("org_enterprise", "business", by=OPERATOR)
        assert entitlement.refresh()
        assert entitlement.references() == set()
        assert not entitlement.refresh()
        now[0] += REFRESH_SECONDS
        assert entitlement.refresh()

    def test_a_registry_that_is_away(self, registry, monkeypatch) -> None:
        """What it said last counts; if it never said anything, nothing is delivered yet."""
        now = [0.0]
        known, new = (self.make(registry, now=lambda: now[0]) for _ in range(2))
        before = known.references()
        monkeypatch.setattr(registry, "organizations", unavailable)
        now[0] += FRESH_SECONDS
        assert known.references() == before
        with pytest.raises(RetryLater):
            new.references()

    @pytest.mark.parametrize(
        ("organization_id", "code", "said"),
        [("org_startup", "not_entitled", "whose plan is startup"), ("org_nobody", "unknown_organization", "not exist")],
    )
    def test_what_is_refused_at_the_start(self, registry, organization_id, code, said) -> None:
        """A configuration that can never deliver does not start."""
        with pytest.raises(NotEntitled, match=said) as caught:
            self.make(registry, "org_enterprise", organization_id).check("back")
        assert caught.value.code == code
        assert "klyra-audit org" in caught.value.remedy

    def test_what_is_allowed_starts(self, registry) -> None:
        """Enterprise organizations and the operator may be named."""
        self.make(registry, "org_enterprise", OPERATOR_ORGANIZATION_ID).check("back")


def unavailable() -> None:
    """Answer as a registry does that does not."""
    raise RetryLater("away")
