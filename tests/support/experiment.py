"""One tampering experiment: what is done to which subject, and exactly which verdicts follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from klyra_collector.verify import Verdict


@dataclass(frozen=True)
class Experiment:
    """A row of the table.

    Attributes:
        number: of the experiment.
        name: what is done, in a few words.
        subject: the class of what it is done to (`support.workshop` and its neighbours).
        tamper: does it.
        expected: every verdict that is not good.
    """

    number: int
    name: str
    subject: Callable[..., Any]
    tamper: Callable[[Any], object]
    expected: frozenset[Verdict]

    def __str__(self) -> str:
        return f"{self.number:02d} {self.name}"


class Table(list[Experiment]):
    """Collects rows; a row is a function that tampers, under a decorator that says the rest."""

    def row(
        self, number: int, name: str, subject: Callable[..., Any], *expected: Verdict
    ) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
        """Return the decorator of one row."""

        def add(tamper: Callable[[Any], object]) -> Callable[[Any], object]:
            self.append(Experiment(number, name, subject, tamper, frozenset(expected)))
            return tamper

        return add
