"""Sections: split, join, commit."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import sections
from klyra_audit.format.errors import ProfileError, SectionError
from klyra_audit.format.sections import Marks, Salts, Sections

NAMES = st.sampled_from(["a", "b", "c~d", "e/f", "client_ip", "user_agent", "email"])
METADATA = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "id": st.just("log_12345678"),
        "actor": st.fixed_dictionaries(
            {"type": st.just("user")}, optional={"id": st.text(max_size=4), "name": st.none()}
        ),
        "resource": st.fixed_dictionaries(
            {"type": st.sampled_from(["user", "webhook"])},
            optional={"id": st.text(max_size=4), "name": st.none()},
        ),
        "metadata": st.dictionaries(NAMES, METADATA, max_size=5),
    }
)
POINTERS = st.lists(
    st.sampled_from(["/metadata/a", "/metadata/b/a", "/metadata/c~0d", "/metadata/e~1f/a/b", "/metadata/email"]),
    unique=True,
).map(tuple)
MARKS = st.builds(Marks, actor=POINTERS, target=POINTERS)


def without_nesting(marks: Marks) -> bool:
    """Say whether no marked pointer lies inside another; catalogs are checked for that."""
    listed = [*marks.actor, *marks.target]
    return not any(a != b and b.startswith(a + "/") for a in listed for b in listed)


@given(DOCUMENTS, MARKS.filter(without_nesting))
def test_join_undoes_split(document, marks) -> None:
    """Joining the sections of a split gives the document back, and splitting leaves the document as it was."""
    before = copy.deepcopy(document)
    parts = sections.split(document, marks)
    assert document == before
    assert sections.join(parts) == document


@given(DOCUMENTS, MARKS.filter(without_nesting))
def test_split_at_the_listed_pointers_equals_the_split(document, marks) -> None:
    """The pointer lists an emitter sends make the collector split alike."""
    parts = sections.split(document, marks)
    assert sections.split_at(document, *sections.pointers(parts)) == parts


CORE = {"actor": {"type": "user"}, "metadata": {"list": [1], "there": 1}, "resource": {"type": "user"}}


def encoded(members) -> bytes | None:
    """Return section bytes of an object, None for None."""
    return None if members is None else json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("actor", "target", "reason"),
    [
        ({"/id": 1}, None, "cannot be in the actor section"),
        ({"/resource/id": "u"}, None, "cannot be in the actor section"),
        ({"/metadata": {}}, None, "cannot be in the actor section"),
        ({"/metadata/": 1}, None, "cannot be in the actor section"),
        (None, {"/actor/id": "u"}, "cannot be in the target section"),
        ({"/metadata/there": 2}, None, "present in the core"),
        ({"/metadata/list/0": 2}, None, "no parent"),
        ({"/metadata/missing/x": 2}, None, "no parent"),
        ({"/metadata/a": {}, "/metadata/a/b": 2}, None, "no parent"),
        ({"/metadata/a": 1}, {"/metadata/a": 1}, "two sections"),
        ({"/metadata/~2": 1}, None, "tilde"),
        ({}, None, "empty"),
    ],
)
def test_join_refuses_sections_that_no_split_produces(actor, target, reason) -> None:
    """Each way of tampering with pointers is refused."""
    with pytest.raises(SectionError, match=reason):
        sections.join(Sections(encoded(CORE), encoded(actor), encoded(target)))


def test_join_refuses_a_target_that_names_a_resource_which_is_no_user() -> None:
    """The resource's id is the target's only if the resource is a user."""
    core = {**CORE, "resource": {"type": "webhook"}}
    with pytest.raises(SectionError, match="no user"):
        sections.join(Sections(encoded(core), None, encoded({"/resource/id": "x"})))


def test_join_refuses_sections_that_are_not_canonical() -> None:
    """White space in a section is tampering."""
    with pytest.raises(ProfileError, match="canonical"):
        sections.join(Sections(encoded(CORE) + b" "))


def test_split_at_refuses_a_pointer_the_document_lacks() -> None:
    """An emitter cannot list what is not there."""
    with pytest.raises(SectionError, match="has no /metadata/x"):
        sections.split_at(CORE, ("/metadata/x",), ())


def test_salts_have_48_bytes() -> None:
    """Salts of another length are refused; drawn ones differ."""
    with pytest.raises(SectionError, match="48"):
        Salts.unpack(bytes(47))
    assert Salts.draw() != Salts.draw()
    assert Salts.unpack(bytes(range(48))).pack() == bytes(range(48))


def test_commitments_depend_on_section_name_salt_and_bytes() -> None:
    """Swapping salts or sections changes the commit, and an absent section commits to zeros."""
    salts = Salts.unpack(bytes(range(48)))
    parts = Sections(b"{}", b'{"/actor/id":"a"}', b'{"/metadata/x":"a"}')
    commit = sections.commitments(parts, salts).event_commit()
    swapped = Salts(salts.core, salts.target, salts.actor)
    assert sections.commitments(parts, swapped).event_commit() != commit
    assert sections.commitments(Sections(b"{}"), salts).actor == bytes(32)
    assert sections.section_commitment("actor", salts.actor, parts.actor) == sections.commitments(parts, salts).actor


def test_the_operator_has_the_zero_reference() -> None:
    """Only the operator's own name maps to sixteen zero bytes, and no customer can bear it."""
    assert sections.organization_reference(bytes(32), sections.OPERATOR_ORGANIZATION_ID) == bytes(16)
    assert not sections.is_organization_id(sections.OPERATOR_ORGANIZATION_ID)
    assert sections.is_organization_id("org_7f3a")
    assert not sections.is_organization_id("org_7f3a\n")


def test_a_pointer_has_at_most_1024_characters() -> None:
    """A longer key cannot stand in a section."""
    long = "/metadata/" + "a" * 1015
    with pytest.raises(SectionError, match="cannot be"):
        sections.split_at(CORE, (long,), ())
