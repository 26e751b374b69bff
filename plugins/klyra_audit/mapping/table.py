"""The mapping table of DESIGN section 6: `schemas/mapping.json` and what an operator adds, made ready once. Pure.

A name is an attribute of the record; with a prefix it is `resource:` an attribute of the resource, `record:` a field of
the record itself, `body:` a member of a body that is a map.
"""

from __future__ import annotations

import fnmatch
import re
import socket
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from klyra_audit import resources
from klyra_audit.errors import Rejected
from klyra_audit.format.canonical import escape
from klyra_audit.format.sections import Marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from klyra_audit.catalog import Catalog

ATTRIBUTES, BODY, RESOURCE, RECORD = range(4)
METADATA: Final = "metadata."
OWN_METADATA: Final = "klyra.metadata."
COLLECTORS_MEMBERS: Final = frozenset(  # of the metadata: nobody else writes them
    {
        *("timestamp_source", "source_id", "tag", "delivery", "dropped_attributes_count"),
        *("attributes", "resource", "body", "replayed_from"),
    }
)
EVENT_TYPE: Final = "event_type"
CONSTANT: Final = "mapping.constants"
DEFAULT: Final = "default"

_PEOPLE: Final = ("actor", "target")
_PLACES: Final = {"body": BODY, "resource": RESOURCE, "record": RECORD}
_WHERE_IT_LANDS: Final = {
    ATTRIBUTES: ("/metadata/attributes/",),
    BODY: ("/metadata/", "/metadata/body/"),
    RESOURCE: ("/metadata/resource/",),
    RECORD: ("/metadata/attributes/",),
}
_LONGEST_USER_AGENT = 4096  # of the entry's schema
_SIGNATURE = "signature"  # what a record brought along, checked: klyra_collector.receive.signing_processor
_MEMBER = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)

Person = Literal["actor", "target", "target_user"]


class BadMapping(Rejected):
    """The section `mapping` of the configuration cannot be used."""

    code = "bad_mapping"


class Name(NamedTuple):
    """One name to look at: where, its key there, and how it is written."""

    place: int
    key: str
    label: str


class Target(NamedTuple):
    """A member of the event document and where its value is looked for.

    Attributes:
        name: such as `actor.id`.
        names: in their order; the first that holds something fitting wins.
        read: makes a text the member's value, None if it does not fit; None takes any text.
        otherwise: what it is when nothing is found, and why; None for nothing.
    """

    name: str
    names: tuple[Name, ...]
    read: Callable[[str], str | None] | None = None
    otherwise: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTypeRule:
    """Which event type stands for records that name none the catalog knows.

    Attributes:
        match: glob over the record's own name for what happened, "" if it has none.
        attributes: globs over values by their names; all must match.
        event_type: of the catalog.
    """

    match: str = "*"
    attributes: Mapping[str, str] = field(default_factory=dict)
    event_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """What an operator adds to the table: section `mapping` of the configuration, see docs/mapping.md."""

    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    event_types: Sequence[EventTypeRule] = ()
    constants: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    personal: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `BadMapping` for what can be told to be wrong without a catalog, with the setting's name."""
        for target, names in self.attributes.items():
            _check_target(f"attributes.{target}", target, known_targets())
            _check_names(f"attributes.{target}", names)
        for target, value in self.constants.items():
            _check_target(f"constants.{target}", target, _with_constants())
            _check_word(f"constants.{target}", target, value)
        for target, words in self.values.items():
            _check_words(target, words)
        for person, names in self.personal.items():
            if person not in _PEOPLE:
                raise _unknown(f"personal.{person}", person, _PEOPLE)
            _check_names(f"personal.{person}", names)
        for number, rule in enumerate(self.event_types):
            _check_rule(f"event_types.{number}", rule)


NO_ADDITIONS: Final = Additions()


class Condition(NamedTuple):
    """A value that a rule asks for."""

    name: Name
    matches: Callable[[str], object]


class Rule(NamedTuple):
    """An event type's rule, made ready."""

    matches: Callable[[str], object]
    conditions: tuple[Condition, ...]
    event_type: str
    label: str


class MappingTable:
    """The whole table, made ready. Immutable but for what it remembers of the catalog.

    Attributes:
        catalog: of the event types.
        targets: by name, without those that are metadata.
        metadata: what an operator's own names give to `metadata.*`.
        rules: for event types, the first match wins.
    """

    def __init__(self, catalog: Catalog, additions: Additions = NO_ADDITIONS) -> None:
        """Make the table ready.

        Raises:
            BadMapping: an addition is no such thing, or names an event type that the catalog does not have.
        """
        additions.check()
        self.catalog = catalog
        self.targets = {name: _target(name, row, additions) for name, row in _rows().items()}
        self.metadata = tuple(_metadata_target(name, additions) for name in _metadata_names(additions))
        self.rules = tuple(_rule(number, rule, catalog) for number, rule in enumerate(additions.event_types))
        constant = additions.constants.get(EVENT_TYPE)
        if constant is not None:
            _check_event_type(f"constants.{EVENT_TYPE}", constant, catalog)
        self._personal = _personal(self.targets, additions)
        self._marks: dict[tuple[str, bool], Marks] = {}

    def marks(self, event_type: str, *, about_user: bool) -> Marks:
        """Return what belongs to the actor and to the target of an entry: the catalog's marks and the table's own.

        Args:
            event_type: of the catalog or not.
            about_user: the resource is a user.
        """
        known = self.catalog.marks(event_type)
        if self.catalog.get(event_type) is None:
            event_type = ""  # any number of names that the catalog does not know
        found = self._marks.get((event_type, about_user))
        if found is None:
            people: tuple[Person, ...] = ("target", "target_user") if about_user else ("target",)
            taken = {*known.actor, *known.target}
            actor = _apart(self._personal["actor"], taken)
            target = _apart([pointer for person in people for pointer in self._personal[person]], {*taken, *actor})
            found = Marks(known.actor + actor, known.target + target)
            self._marks[event_type, about_user] = found
        return found


def known_targets() -> list[str]:
    """Return the targets that names can be given for; besides them, any `metadata.` member."""
    return list(_rows())


@cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = resources.load("schemas", "mapping.json")["targets"]
    return rows


def _with_constants() -> list[str]:
    return [name for name, row in _rows().items() if row.get("constant", True)]


def _with_words() -> list[str]:
    return [name for name, row in _rows().items() if "words" in row]


def parse_name(label: str) -> Name:
    """Return a name as it is written, with or without a prefix."""
    prefix, separator, key = label.partition(":")
    if separator and prefix in _PLACES:
        return Name(_PLACES[prefix], key, label)
    return Name(ATTRIBUTES, label, label)


def _target(name: str, row: Mapping[str, Any], additions: Additions) -> Target:
    names = [*row["first"], *additions.attributes.get(name, ()), *row.get("then", ())]
    constant = additions.constants.get(name)
    default = row.get("default")
    return Target(
        name=name,
        names=tuple(map(parse_name, dict.fromkeys(names))),
        read=_reader(row, additions.values.get(name, {})),
        otherwise=(constant, CONSTANT) if constant is not None else None if default is None else (default, DEFAULT),
    )


def _metadata_names(additions: Additions) -> list[str]:
    names = dict.fromkeys([*additions.attributes, *additions.constants])
    return [name for name in names if name.startswith(METADATA) and name not in _rows()]


def _metadata_target(name: str, additions: Additions) -> Target:
    own = OWN_METADATA + name.removeprefix(METADATA)
    constant = additions.constants.get(name)
    return Target(
        name=name,
        names=tuple(map(parse_name, dict.fromkeys([own, *additions.attributes.get(name, ())]))),
        otherwise=None if constant is None else (constant, CONSTANT),
    )


def _reader(row: Mapping[str, Any], own_words: Mapping[str, str]) -> Callable[[str], str | None] | None:
    form = row.get("form")
    if form == "address":
        return address
    if form == "short_text":
        return _short_text
    if "words" not in row:
        return None
    words = {**row["words"], **{word.lower(): value for word, value in own_words.items()}}
    vocabulary = row.get("vocabulary")
    if vocabulary is None:
        return lambda text: words.get(text.lower(), text)
    if not row.get("skip_others"):
        return lambda text: words.get(lower := text.lower(), lower)
    allowed = {**{word: word for word in vocabulary}, **words}
    return lambda text: allowed.get(text.lower())


def address(text: str) -> str | None:
    """Return an IPv4 or IPv6 address as it is written, None for anything else, such as a host name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return text
    return None


def _short_text(text: str) -> str | None:
    return text if len(text) <= _LONGEST_USER_AGENT else None


def _rule(number: int, rule: EventTypeRule, catalog: Catalog) -> Rule:
    setting = f"event_types.{number}"
    _check_event_type(f"{setting}.event_type", rule.event_type, catalog)
    conditions = [Condition(parse_name(name), _glob(pattern)) for name, pattern in rule.attributes.items()]
    return Rule(_glob(rule.match), tuple(conditions), rule.event_type, f"mapping.{setting}")


def _glob(pattern: str) -> Callable[[str], object]:
    return re.compile(fnmatch.translate(pattern)).match


def _personal(targets: Mapping[str, Target], additions: Additions) -> dict[Person, list[str]]:
    """Return the pointers where personal data come to lie when nothing took them, by whose they are."""
    names: dict[Person, list[Name]] = {"actor": [], "target": [], "target_user": []}
    for target, row in _rows().items():
        if "personal" in row:
            names[row["personal"]] += targets[target].names
    names["actor"] += map(parse_name, additions.personal.get("actor", ()))
    names["target"] += map(parse_name, additions.personal.get("target", ()))
    return {person: [pointer for name in listed for pointer in _pointers(name)] for person, listed in names.items()}


def _pointers(name: Name) -> list[str]:
    if name.place == ATTRIBUTES and name.key.startswith(OWN_METADATA):
        own = [f"/metadata/{escape(name.key.removeprefix(OWN_METADATA))}"]
    else:
        own = []
    return [*own, *(prefix + escape(name.key) for prefix in _WHERE_IT_LANDS[name.place])]


def _apart(pointers: Iterable[str], taken: set[str]) -> tuple[str, ...]:
    """Return the pointers of which none lies in another or in one that is taken: those could not be joined again."""
    always = {"/metadata/client_ip", "/metadata/user_agent"}
    chosen: list[str] = []
    for pointer in dict.fromkeys(pointers):
        if not any(_overlap(pointer, other) for other in (*taken, *always, *chosen)):
            chosen.append(pointer)
    return tuple(chosen)


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _check_target(setting: str, target: str, known: Sequence[str]) -> None:
    if target in known:
        return
    member = target.removeprefix(METADATA)
    if member == target or target in _rows():
        raise _unknown(setting, target, [*known, f"{METADATA}<member>"])
    if member in COLLECTORS_MEMBERS or member == _SIGNATURE or not _MEMBER.fullmatch(member):
        raise _bad(setting, "names a member of the metadata that the collector writes itself, or that cannot be one")


def _check_names(setting: str, names: Iterable[str]) -> None:
    for name in names:
        if not parse_name(name).key:
            raise _bad(setting, f"has the name {name!r}, which is empty")


def _check_rule(setting: str, rule: EventTypeRule) -> None:
    if rule.match == "*" and not rule.attributes:
        raise _bad(setting, "has neither match nor attributes, so it would match everything")
    _check_names(f"{setting}.attributes", rule.attributes)


def _check_words(target: str, words: Mapping[str, str]) -> None:
    if target not in _with_words():
        raise _unknown(f"values.{target}", target, _with_words())
    for word, value in words.items():
        _check_word(f"values.{target}.{word}", target, value)


def _check_word(setting: str, target: str, value: str) -> None:
    vocabulary = _rows().get(target, {}).get("vocabulary")
    if vocabulary is not None and value not in vocabulary:
        raise _bad(setting, f"is {value!r}, and can only be {' or '.join(vocabulary)}")


def _check_event_type(setting: str, event_type: str, catalog: Catalog) -> None:
    if catalog.get(event_type) is None:
        raise _bad(
            setting,
            f"is {event_type!r}, which the catalog does not have",
            "Correct it, or add the type to your own catalog file.",
        )


def _unknown(setting: str, target: str, known: Sequence[str]) -> BadMapping:
    return _bad(setting, f"{target!r} is none of {', '.join(known)}")


def _bad(setting: str, problem: str, remedy: str = "See docs/mapping.md.") -> BadMapping:
    return BadMapping(f"mapping.{setting}: {problem}.", remedy=remedy)
