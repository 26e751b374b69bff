"""Play the script against a running service: ``python -m klyra_collector.demo.traffic --service URL [--seed N]``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import closing
from random import Random
from typing import TYPE_CHECKING, Final

from klyra_collector.demo.client import ServiceClient, Stopped, UnexpectedAnswer
from klyra_collector.demo.script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_SEED: Final = 1

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.25, 0.5  # seconds between requests: 2 to 4 a second


def play(service: str, seed: int, stop: threading.Event, report: Callable[[str], None]) -> None:
    """Play the opening at once, then daily life at its pace, until `stop` is set.

    Args:
        service: the URL of the example moderation service; it need not answer yet.
        seed: decides who does what.
        stop: ends everything, waiting included.
        report: told when the service does not take a request, and why.

    Raises:
        UnexpectedAnswer: what answers there is no example moderation service.
    """
    random = Random(seed)  # noqa: S311 - a script, not a secret
    with closing(ServiceClient(service, stop, report)) as client:
        script = Script(client, random, report)
        try:
            client.await_service()
            for _ in script.opening():
                pass
            for _ in script.daily_life():
                stop.wait(random.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE))
        except Stopped:
            return


def main(arguments: Sequence[str]) -> int:
    """Play until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(prog="klyra_collector.demo.traffic", description=__doc__)
    parser.add_argument("--service", required=True, help="the URL of the example moderation service")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="decides who does what")
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        play(options.service, options.seed, threading.Event(), _report)
    except Stopped:  # the signal came before or after the play
        return 0
    except UnexpectedAnswer as error:
        _report(str(error))
        return 2
    return 0


def _stop(*_: object) -> None:
    """End even a request that waits for its answer."""
    raise Stopped


def _report(text: str) -> None:
    sys.stderr.write(f"example traffic: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
