"""The destination `splunk`: Splunk's HTTP Event Collector, with and without indexer acknowledgement.

Options: `token`, `acknowledge`, `acknowledge_seconds`, `index`, `source`, `sourcetype`, `host`
(docs/destinations/splunk.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_siem.cloud_settings import CloudSettings
from klyra_siem.destination import Limits, Payload
from klyra_siem.http_sending import JSON, Answer, EncodedOnce, HttpSender, collector_of, milliseconds, packed
from klyra_siem.outcome import Action, Outcome
from klyra_siem.splunk_acknowledgement import CHANNEL_HEADER, Acknowledgements, Channel, RealTimer
from klyra_siem.splunk_answers import NEARLY_FULL, acknowledgement_id, of_events, of_no_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import Destination, DestinationOptions, SealedEntry
    from klyra_siem.splunk_acknowledgement import Timer

EXAMPLE: Final = "https://splunk.example.com:8088"
EVENTS_PATH: Final = "/services/collector/event"
ACK_PATH: Final = "/services/collector/ack"
SLOW_DOWN_SECONDS: Final = 5.0

# Splunk Enterprise takes far more unless `limits.conf` says less; large requests make its queues uneven.
LIMITS: Final = Limits(
    entries=1_000,
    encoded_bytes=1_000_000,
    entry_bytes=None,
    span_seconds=None,
    oldest_seconds=None,
    newest_seconds=None,
)

_TEXT = r"[^\x00-\x1f]{1,200}"
_INDEX = r"[a-z0-9_][a-z0-9_-]{0,79}"


def create(options: DestinationOptions) -> Destination:
    """Return the destination of a collector; `BadDestination` if the options cannot be used."""
    return SplunkHec(options, HecSettings.read(options), RealTimer())


@dataclass(frozen=True, slots=True, kw_only=True)
class HecSettings:
    """How events are filed.

    Attributes:
        endpoint: URL without a path.
        token: of the HTTP Event Collector.
        acknowledge_seconds: how long indexers may take; None for a token without indexer acknowledgement.
        index: None for the token's own.
        source, sourcetype: of every event.
        host: None for the collector that sealed the entry.
    """

    endpoint: str
    token: str = field(repr=False)
    acknowledge_seconds: int | None
    index: str | None
    source: str
    sourcetype: str
    host: str | None

    @classmethod
    def read(cls, options: DestinationOptions) -> HecSettings:
        """Return what the configuration says; `BadDestination` if it says something else."""
        settings = CloudSettings(options)
        seconds = settings.number("acknowledge_seconds", 300, range(1, 3601))
        made = cls(
            endpoint=settings.endpoint(EXAMPLE),
            token=settings.text("token", "env:SPLUNK_TOKEN", r"[!-~]{1,200}"),
            acknowledge_seconds=seconds if settings.flag("acknowledge", default=True) else None,
            index=settings.text("index", "klyra_audit", _INDEX + "|", "") or None,
            source=settings.text("source", "klyra", _TEXT, "klyra"),
            sourcetype=settings.text("sourcetype", "klyra:audit:json", _TEXT, sourcetype_of(options.record.name)),
            host=settings.text("host", "audit-1", _TEXT + "|", "") or None,
        )
        settings.finish()
        return made


def sourcetype_of(record_format: str) -> str:
    """Return the source type of a format; versions of one share it."""
    family = record_format.partition("-")[0]
    return f"klyra:audit:{'json' if family == 'native' else family}"


class SplunkHec:
    """A token of an HTTP Event Collector (Splunk, "Format events for HTTP Event Collector")."""

    def __init__(self, options: DestinationOptions, settings: HecSettings, timer: Timer) -> None:
        self._record = options.record
        self._compression = options.compression
        self._settings = settings
        self._timer = timer
        self._headers = {"Authorization": f"Splunk {settings.token}"}
        self._sender = HttpSender(options, (settings.token,))
        self._encoded = EncodedOnce(self._event, 2 * LIMITS.encoded_bytes)
        self._channel = Channel.draw()
        self._slow_down_seconds = 0.0
        self._is_in_doubt = False
        self._acknowledgements: Acknowledgements | None = None
        if settings.acknowledge_seconds is not None:
            self._acknowledgements = Acknowledgements(
                self._sender,
                settings.endpoint + ACK_PATH,
                self._headers,
                seconds=settings.acknowledge_seconds,
                timer=timer,
                wall=time.time,
            )

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`: exactly the event and its line break."""
        return len(self._encoded.one(entry)) + 1

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`."""
        return packed(b"\n".join(self._encoded.batch(entries)), self._compression, {"Content-Type": JSON})

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`: with acknowledgement, waits until the indexers have the batch or time is up.

        What nobody has acknowledged goes again through another channel: this one's indexer may have lost it.
        """
        self._wait_if_asked()
        answer = self._doubt() or self._post(payload)
        if isinstance(answer, Outcome):
            return answer
        outcome = of_events(answer, time.time())
        if outcome.action is not Action.DELIVERED:
            return outcome
        if outcome.status in NEARLY_FULL:
            self._slow_down_seconds = SLOW_DOWN_SECONDS
        return outcome if self._acknowledgements is None else self._acknowledged(answer, outcome)

    def probe(self) -> Outcome:
        """See `Destination`: a request without events, then a question about no acknowledgement."""
        answer = self._post(packed(b"", self._compression, {"Content-Type": JSON}))
        outcome = of_no_data(answer, time.time()) if isinstance(answer, Answer) else answer
        if outcome.action is not Action.DELIVERED or self._acknowledgements is None:
            return outcome
        return self._acknowledgements.ask(self._channel, None)

    def close(self) -> None:
        """See `Destination`."""
        self._sender.close()

    def _post(self, payload: Payload) -> Answer | Outcome:
        headers = {**payload.headers, **self._headers}
        if self._acknowledgements is not None:
            headers[CHANNEL_HEADER] = self._channel.name
        return self._sender.post(self._settings.endpoint + EVENTS_PATH, payload.content, headers)

    def _acknowledged(self, answer: Answer, outcome: Outcome) -> Outcome:
        """Return `outcome` once the indexers have acknowledged what was answered; what is wrong if they do not."""
        assert self._acknowledgements is not None  # noqa: S101 - only asked for with acknowledgement
        ack_id = acknowledgement_id(answer)
        waited = ack_id if isinstance(ack_id, Outcome) else self._acknowledgements.wait_for(self._channel, ack_id)
        if waited.action is Action.DELIVERED:
            return outcome
        self._is_in_doubt = waited.action is Action.PAUSE
        self._channel = Channel.draw()
        self._sender.begin_anew()
        return waited

    def _doubt(self) -> Outcome | None:
        """Return why nothing would be acknowledged, if that was so the last time and still is.

        Splunk has taken that batch already: sending it again at every attempt would fill the index with copies.
        """
        if not self._is_in_doubt or self._acknowledgements is None:
            return None
        asked = self._acknowledgements.ask(self._channel, None)
        self._is_in_doubt = asked.action is not Action.DELIVERED
        return asked if self._is_in_doubt else None

    def _wait_if_asked(self) -> None:
        if self._slow_down_seconds:
            self._timer.wait(self._slow_down_seconds)
            self._slow_down_seconds = 0.0

    def _event(self, entry: SealedEntry) -> bytes:
        """Return an event with its metadata; `fields` are what searches need whatever the format is."""
        settings, record = self._settings, self._record.encode(entry)
        event: dict[str, Any] = {
            "time": milliseconds(entry.filed_ns) / 1000,
            "host": settings.host or collector_of(entry.origin),
            "source": settings.source,
            "sourcetype": settings.sourcetype,
            "event": orjson.Fragment(record) if self._record.content == "json" else record.decode(),
            "fields": {
                "event_id": entry.entry_id,
                "event_type": entry.document["event_type"],
                "organization_id": entry.organization_id,
                "klyra_log": entry.origin,
                "seq": str(entry.index),
            },
        }
        if settings.index is not None:
            event["index"] = settings.index
        return orjson.dumps(event)
