"""A classifier that anyone can check by hand: lists of words, and a score that counts them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL: Final = "word-lists-1"

PHRASES: Mapping[str, tuple[str, ...]] = {
    "toxic": ("stupid", "idiot", "idiots", "dumb", "moron", "pathetic", "garbage", "trash", "worthless"),
    "harassment": ("loser", "shut up", "get lost", "nobody likes you", "go away", "leave this site"),
    "profanity": ("damn", "crap", "bloody hell", "what the hell"),
    "spam": ("buy now", "click here", "free money", "limited offer", "act now", "cheap watches", "promo code"),
    "threat": ("you will regret", "watch your back", "i know where you live", "or else"),
}

_CENT = Decimal("0.01")
_TWO_DECIMALS = re.compile(r"0\.\d\d|1\.00")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier says of one text.

    Attributes:
        scores: category → score of every category with at least one hit, 0 < score < 1, two decimals.
        categories: those whose score reaches the threshold, in alphabetical order.
    """

    scores: Mapping[str, Decimal]
    categories: tuple[str, ...]


def classify(text: str, threshold: Decimal) -> Verdict:
    """Return the verdict on a text.

    The score of a category starts at 0, and each of its phrases found in the text halves what is missing to 1:
    one hit is 0.50, two are 0.75, three 0.88.
    """
    words = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    hits = {category: sum(words.count(f" {phrase} ") for phrase in phrases) for category, phrases in PHRASES.items()}
    scores = {category: _score(count) for category, count in sorted(hits.items()) if count}
    return Verdict(scores, tuple(category for category, score in scores.items() if score >= threshold))


def parse_threshold(text: str) -> Decimal:
    """Read a threshold from 0.00 to 1.00 with two decimals; `ValueError` for anything else."""
    if not _TWO_DECIMALS.fullmatch(text):
        raise ValueError("a threshold is written 0.00 to 1.00, with two decimals")
    return Decimal(text)


def _score(hits: int) -> Decimal:
    return min(1 - Decimal("0.5") ** hits, Decimal("0.99")).quantize(_CENT)
