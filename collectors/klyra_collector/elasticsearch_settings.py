"""`[store.elasticsearch]`: how the follower writes to Elasticsearch, where `store.url` names one."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ElasticsearchSettings(BaseModel):
    """How the follower writes. `store.url` itself is whose key reads.

    Attributes:
        write_url: with the writer's key; None takes `store.url`.
        sweep_url: with the key that moves and deletes what EXTEND, HOLD, ERASURE and EXPIRY records name; None takes
            `write_url`.
        ack: `sealed`: senders are answered once a record is durable in the ledger; `stored`: once Elasticsearch has it.
        ack_seconds: with `stored`, how long a sender waits before it is told to try again.
        request_bytes: of one bulk request at most, before compression.
        requests: under way at once.
        dedicated_streams: organizations whose entries get data streams of their own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    write_url: str | None = None
    sweep_url: str | None = None
    ack: Literal["sealed", "stored"] = "sealed"
    ack_seconds: float = Field(30, gt=0)
    request_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024)
    requests: int = Field(2, ge=1, le=16)
    dedicated_streams: tuple[str, ...] = ()
