"""What happens in the example organization, one request after the other.

Each scene is an iterator that has made one more request each time it yields, so that whoever plays it sets the pace.
The same seed and the same answers give the same requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klyra_collector.demo import cast
from klyra_collector.demo.client import Caller, UnexpectedAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from klyra_collector.demo.cast import Person, Program
    from klyra_collector.demo.client import ServiceClient

CREATED, OK, NO_CONTENT = 201, 200, 204
FORBIDDEN, TOO_LARGE = 403, 413

_OPENING_TEXTS: Final = 14
_HARMFUL_SHARE: Final = 0.35
_REMEMBERED: Final = 50  # moderations that may still be appealed or overridden
_TOO_LONG = "ha" * 6000  # more than the service takes


@dataclass(frozen=True, slots=True)
class Member:
    """A person with an account, and the id the service gave them."""

    person: Person
    user_id: str


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of the service, and the program that holds it."""

    program: Program
    key_id: str
    secret: str


class Script:
    """Plays the cast against the service and remembers what came of it."""

    def __init__(self, client: ServiceClient, random: Random, on_surprise: Callable[[str], None]) -> None:
        """Take the way to the service, the seeded dice, and who is told of an answer outside the script."""
        self._client = client
        self._random = random
        self._on_surprise = on_surprise
        self._members: list[Member] = []
        self._visitors: list[Member] = []
        self._keys: list[Key] = []
        self._webhooks: list[str] = []
        self._flagged: list[str] = []
        self._appealed: list[str] = []
        self._threshold, self._next_threshold = "0.50", "0.75"

    def opening(self) -> Iterator[None]:
        """Set the organization up and use it once in every way: about 60 entries, every event type."""
        for program in cast.PROGRAMS:
            yield from self._create_key(program)
        for person in cast.PEOPLE:
            yield from self._join(person, self._members)
        yield from self._assign_role(self._members[0], "admin")
        for url in cast.WEBHOOK_URLS[:2]:
            yield from self._create_webhook(url)
        yield from self._change_threshold()
        for number in range(_OPENING_TEXTS):
            yield from self._moderate(harmful=number % 3 == 0)
        for scene in (self._appeal, self._override, self._appeal, self._override, self._send_too_much):
            yield from scene()
        yield from self._forbidden_attempt()
        yield from self._update_webhook()
        yield from self._delete_webhook()
        yield from self._replace_key()
        yield from self._visit()
        yield from self._leave()

    def daily_life(self) -> Iterator[None]:
        """Go on for ever, mostly with texts to moderate."""
        scenes: Sequence[tuple[int, Callable[[], Iterator[None]]]] = (
            (78, self._moderate_something),
            (6, self._appeal),
            (5, self._override),
            (2, self._visit_or_leave),
            (2, self._change_webhooks),
            (2, self._forbidden_attempt),
            (1, self._send_too_much),
            (1, self._assign_some_role),
            (1, self._change_threshold),
            (1, self._replace_key),
        )
        weights, plays = [weight for weight, _ in scenes], [play for _, play in scenes]
        while True:
            (play,) = self._random.choices(plays, weights)
            try:
                yield from play()
            except UnexpectedAnswer as error:  # somebody else uses the service as well
                self._on_surprise(str(error))
            yield

    # Moderation

    def _moderate_something(self) -> Iterator[None]:
        return self._moderate(harmful=self._random.random() < _HARMFUL_SHARE)

    def _moderate(self, *, harmful: bool) -> Iterator[None]:
        text = self._random.choice(cast.HARMFUL_TEXTS if harmful else cast.HARMLESS_TEXTS)
        answer = self._send(self._some_program(), "POST", "/v1/moderations", {"text": text}, expect=CREATED)
        if answer["decision"] == "flagged":
            self._flagged = [*self._flagged, answer["id"]][-_REMEMBERED:]
        yield

    def _send_too_much(self) -> Iterator[None]:
        self._send(self._some_program(), "POST", "/v1/moderations", {"text": _TOO_LONG}, expect=TOO_LARGE)
        yield

    def _appeal(self) -> Iterator[None]:
        if self._flagged:
            moderation_id = self._flagged.pop(self._random.randrange(len(self._flagged)))
            reason = self._random.choice(cast.APPEALS)
            path = f"/v1/moderations/{moderation_id}/appeals"
            self._send(self._some_program(), "POST", path, {"reason": reason}, expect=CREATED)
            self._appealed.append(moderation_id)
            yield

    def _override(self) -> Iterator[None]:
        """Decide what was appealed first, else something flagged."""
        waiting = self._appealed or self._flagged
        if waiting:
            body = {"decision": "approved", "reason": self._random.choice(cast.OVERRIDES)}
            path = f"/v1/moderations/{waiting.pop(0)}/decision"
            self._send(self._somebody("moderator", "admin"), "PUT", path, body, expect=OK)
            yield

    # People

    def _join(self, person: Person, group: list[Member]) -> Iterator[None]:
        """Invite somebody, who accepts."""
        body = {"email": person.email, "name": person.name, "role": person.role}
        invited = self._send(self._owner(), "POST", "/v1/invitations", body, expect=CREATED)
        yield
        member = Member(person, invited["id"])
        self._send(self._as(member), "POST", f"/v1/invitations/{invited['token']}/accept", expect=CREATED)
        group.append(member)
        yield

    def _visit_or_leave(self) -> Iterator[None]:
        return self._leave() if self._visitors else self._visit()

    def _visit(self) -> Iterator[None]:
        return self._join(self._random.choice(cast.VISITORS), self._visitors)

    def _leave(self) -> Iterator[None]:
        if self._visitors:
            user_id = self._visitors.pop().user_id
            self._send(self._owner(), "DELETE", f"/v1/users/{user_id}", expect=NO_CONTENT)
            yield

    def _assign_some_role(self) -> Iterator[None]:
        return self._assign_role(self._members[0], self._random.choice(("admin", "moderator")))

    def _assign_role(self, member: Member, role: str) -> Iterator[None]:
        path = f"/v1/users/{member.user_id}/role"
        self._send(self._owner(), "PUT", path, {"role": role}, expect=OK)
        yield

    def _forbidden_attempt(self) -> Iterator[None]:
        """Let a viewer try what only an administrator may do."""
        viewer = self._somebody("viewer")
        attempts = (
            ("PUT", f"/v1/users/{self._members[-1].user_id}/role", {"role": "admin"}),
            ("POST", "/v1/api-keys", {"name": "Weekend project"}),
            ("PATCH", "/v1/settings", {"flag_threshold": "0.99"}),
        )
        method, path, body = self._random.choice(attempts)
        self._send(viewer, method, path, body, expect=FORBIDDEN)
        yield

    # Keys, webhooks, settings

    def _create_key(self, program: Program) -> Iterator[None]:
        made = self._send(self._owner(), "POST", "/v1/api-keys", {"name": program.name}, expect=CREATED)
        self._keys.append(Key(program, made["id"], made["key"]))
        yield

    def _replace_key(self) -> Iterator[None]:
        """Rotate as a careful administrator does: the new key first, then the old one goes."""
        old = self._keys[0]
        yield from self._create_key(old.program)
        self._keys.remove(old)
        self._send(self._owner(), "DELETE", f"/v1/api-keys/{old.key_id}", expect=NO_CONTENT)
        yield

    def _change_webhooks(self) -> Iterator[None]:
        if not self._webhooks:
            return self._create_webhook(self._random.choice(cast.WEBHOOK_URLS))
        return self._random.choice((self._update_webhook, self._delete_webhook))()

    def _create_webhook(self, url: str) -> Iterator[None]:
        body = {"url": url, "events": ["moderation.flagged"]}
        made = self._send(self._owner(), "POST", "/v1/webhooks", body, expect=CREATED)
        self._webhooks.append(made["id"])
        yield

    def _update_webhook(self) -> Iterator[None]:
        body = {"events": ["moderation.flagged", "moderation.appealed"]}
        path = f"/v1/webhooks/{self._random.choice(self._webhooks)}"
        self._send(self._somebody("admin"), "PATCH", path, body, expect=OK)
        yield

    def _delete_webhook(self) -> Iterator[None]:
        path = f"/v1/webhooks/{self._webhooks.pop(0)}"
        self._send(self._owner(), "DELETE", path, expect=NO_CONTENT)
        yield

    def _change_threshold(self) -> Iterator[None]:
        self._threshold, self._next_threshold = self._next_threshold, self._threshold
        self._send(self._owner(), "PATCH", "/v1/settings", {"flag_threshold": self._threshold}, expect=OK)
        yield

    # Who

    def _owner(self) -> Caller:
        return Caller(self._random.choice(cast.OWNER_ORIGINS), user_id=cast.OWNER_ID)

    def _as(self, member: Member) -> Caller:
        return Caller(self._random.choice(member.person.origins), user_id=member.user_id)

    def _somebody(self, *roles: str) -> Caller:
        """Return a member who joined with one of these roles."""
        return self._as(self._random.choice([member for member in self._members if member.person.role in roles]))

    def _some_program(self) -> Caller:
        key = self._random.choice(self._keys)
        return Caller(self._random.choice(key.program.origins), secret=key.secret)

    def _send(
        self, caller: Caller, method: str, path: str, body: dict[str, Any] | None = None, *, expect: int
    ) -> dict[str, Any]:
        return self._client.send(caller, method, path, body, expect=expect)
