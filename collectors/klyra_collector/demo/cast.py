"""Who uses the example service, from where and with what, and what they write.

Every address is from a range set aside for documentation (RFC 5737, RFC 3849); every domain is example.com.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OWNER_ID: Final = "usr_owner"  # the administrator with whom the service begins

_SAFARI = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.1 Safari/605.1.15"
)
_CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
)
_FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from: an address and a user agent."""

    client_ip: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account, or about to have one.

    Attributes:
        name, email: as the service knows them.
        role: admin, moderator or viewer.
        origins: the places they work from.
    """

    name: str
    email: str
    role: str
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """An application that sends content with an API key of its own."""

    name: str
    origins: tuple[Origin, ...]


OWNER_ORIGINS: Final = (Origin("192.0.2.10", _SAFARI), Origin("2001:db8:40::10", _SAFARI))

PEOPLE: Final = (
    Person("Bea Lindqvist", "bea@example.com", "moderator", (Origin("192.0.2.24", _FIREFOX),)),
    Person(
        "Chidi Okafor",
        "chidi@example.com",
        "moderator",
        (Origin("203.0.113.77", _CHROME), Origin("2001:db8:7:1::4d", _CHROME)),
    ),
    Person("Dana Petrov", "dana@example.com", "admin", (Origin("192.0.2.31", _SAFARI),)),
    Person("Eli Navarro", "eli@example.com", "viewer", (Origin("203.0.113.140", _CHROME),)),
)

# They come and go while the demo runs.
VISITORS: Final = (
    Person("Farah Haddad", "farah@example.com", "viewer", (Origin("198.51.100.61", _FIREFOX),)),
    Person("Gus Ito", "gus@example.com", "moderator", (Origin("2001:db8:9::a1", _SAFARI),)),
    Person("Hana Novak", "hana@example.com", "viewer", (Origin("203.0.113.8", _CHROME),)),
)

PROGRAMS: Final = (
    Program(
        "Production API Key",
        (
            Origin("198.51.100.123", "klyra-sdk/1.4.2 node/22.11.0"),
            Origin("198.51.100.124", "klyra-sdk/1.4.2 node/22.11.0"),
            Origin("2001:db8:100::7b", "klyra-sdk/1.4.2 node/22.11.0"),
        ),
    ),
    Program("Mobile App", (Origin("203.0.113.200", "klyra-sdk/1.3.0 okhttp/4.12.0 Android/15"),)),
    Program("Staging API Key", (Origin("192.0.2.200", "python-httpx/0.28.1"),)),
)

WEBHOOK_URLS: Final = (
    "https://hooks.example.com/moderation",
    "https://alerts.example.com/klyra",
    "https://queue.example.com/flagged",
)

HARMLESS_TEXTS: Final = (
    "Thanks, that solved it on the first try!",
    "Does anyone know when the next release is planned?",
    "The photos from the hike are lovely, especially the third one.",
    "I think the second answer is clearer than the first.",
    "Could you share the recipe? My bread never rises like that.",
    "We moved the meeting to Thursday at ten.",
    "Great match yesterday, what a goal in the last minute.",
    "My parcel arrived two days early, very happy.",
    "Please add a dark mode, my eyes would thank you.",
    "I disagree, but I see where you are coming from.",
    "Is the museum open on public holidays?",
    "This tutorial is the best one I have read so far.",
    "Happy birthday! See you at the party on Saturday.",
    "The bus was late again, so I walked along the river.",
)

HARMFUL_TEXTS: Final = (
    "What a stupid idea, only an idiot would ship that.",
    "Shut up and get lost, nobody likes you here.",
    "FREE MONEY!!! Click here for a limited offer, act now!",
    "You are a loser and this is garbage.",
    "Damn, this update is crap.",
    "Buy now with promo code SAVE20, cheap watches for everyone.",
    "Delete that post or else, you will regret it.",
    "Pathetic. Go away, moron.",
)

APPEALS: Final = (
    "It was a quotation from a film.",
    "I was joking with a friend who answered in kind.",
    "The word has another meaning in this context.",
)

OVERRIDES: Final = (
    "Reviewed by hand: a quotation, not an insult.",
    "Context makes it harmless.",
    "Confirmed with the author.",
)
