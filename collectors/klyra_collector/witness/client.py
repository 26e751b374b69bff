"""Asks one witness to cosign: the HTTP side of C2SP tlog-witness v1.0.0 `add-checkpoint`."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import httpx

from klyra_audit.errors import RetryLater
from klyra_collector.witness.errors import AnswerInvalid, WitnessUnavailable
from klyra_collector.witness.heads import consistency_proof
from klyra_collector.witness.judging import MAX_ANSWER_BYTES, Answer, Cosignature, judge
from klyra_collector.witness.request import AddCheckpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from klyra_audit.format.keys import VerifyingKey
    from klyra_collector.witness.heads import Head

CALL_SECONDS: Final = 20.0
ATTEMPTS: Final = 4

_MEDIA_TYPE = "text/plain; charset=utf-8"


class WitnessClient:
    """One witness of the policy, at its submission prefix."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        key: VerifyingKey,
        prefix: str,
        now: Callable[[], float],
        *,
        first_delay_seconds: float = 1.0,
    ) -> None:
        """Build it.

        Args:
            http: shared by all witnesses.
            key: the witness's, from the policy.
            prefix: its submission prefix.
            now: seconds since 1970.
            first_delay_seconds: before a witness in a passing trouble is asked again; doubled each time.
        """
        self._http = http
        self._key = key
        self._url = f"{prefix.rstrip('/')}/add-checkpoint"
        self._now = now
        self._first_delay_seconds = first_delay_seconds

    async def cosign(self, head: Head, believed_size: int) -> Cosignature:
        """Have a checkpoint cosigned; in a passing trouble the witness is asked again, ATTEMPTS times in all.

        Args:
            head: the checkpoint.
            believed_size: what the witness is believed to have cosigned last; 0 if nothing is known.

        Raises:
            WitnessUnavailable, LogNotWitnessed, AnswerInvalid, LedgerBehind, HistoryRefused: see `errors`.
            LedgerDamaged: there is no proof to give.
        """
        for attempt in range(ATTEMPTS - 1):
            try:
                return await self._cosign(head, believed_size)
            except RetryLater:
                jitter = 0.5 + random.random() / 2  # noqa: S311 - nothing secret
                await asyncio.sleep(self._first_delay_seconds * 2**attempt * jitter)
        return await self._cosign(head, believed_size)

    async def _cosign(self, head: Head, believed_size: int) -> Cosignature:
        """Ask once, and once more from the size that the witness names if it has cosigned another one."""
        old_size = min(believed_size, head.checkpoint.size)
        for _ in range(2):
            proof = await asyncio.to_thread(consistency_proof, head, old_size)
            answer = await self._post(AddCheckpoint(old_size, proof, head.encoded).encode())
            verdict = judge(answer, head, old_size, self._key, self._now())
            if isinstance(verdict, Cosignature):
                return verdict
            old_size = verdict.size
        raise WitnessUnavailable(
            f"{self._key.name} names another size each time it is asked.",
            remedy="See whether a second collector of the same name runs; it is asked again by itself.",
            code="witness_size_moves",
        )

    async def _post(self, body: bytes) -> Answer:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._exchange(body)
        except (httpx.HTTPError, TimeoutError) as error:
            raise WitnessUnavailable(
                f"{self._key.name} does not answer at {self._url}: {str(error) or type(error).__name__}.",
                remedy="It is asked again by itself.",
            ) from error
        except httpx.InvalidURL as error:
            raise AnswerInvalid(
                f"{self._url} is no address: {error}.", remedy="Mend the witness's URL in the policy."
            ) from error

    async def _exchange(self, body: bytes) -> Answer:
        headers = {"Content-Type": _MEDIA_TYPE}
        async with self._http.stream("POST", self._url, content=body, headers=headers) as response:
            received = bytearray()
            async for part in response.aiter_bytes():
                received += part
                if len(received) > MAX_ANSWER_BYTES:
                    raise AnswerInvalid(
                        f"The answer of {self._key.name} is longer than {MAX_ANSWER_BYTES} bytes.",
                        remedy="Ask its operator what listens there.",
                    )
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return Answer(response.status_code, media_type, bytes(received))
