"""One Forward connection: handshake, then messages in and acknowledgements out, until either side closes.

While a batch of messages is being sealed nothing is read: a sender that is too fast waits in its own buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import KlyraError, Paused, Rejected
from klyra_audit.forward.errors import HandshakeFailed, MessageTooLarge, NotForward
from klyra_audit.forward.framing import Framer
from klyra_audit.forward.handshake import MAX_HANDSHAKE_BYTES, Helo, Ping, Pong
from klyra_audit.forward.message import Message, decode_message
from klyra_collector.errors import Overloaded
from klyra_collector.receive.forward.intake import PATIENCE_SECONDS, ForwardIntake, Peer

if TYPE_CHECKING:
    from klyra_collector.fair_budget import Reservation
    from klyra_collector.receive.forward.access import Access, Binding

ENDPOINT: Final = "forward"  # what a refused key is reported for

_READ_BYTES: Final = 64 * 1024
_LARGE_BYTES: Final = 16 * 1024
_POLL_SECONDS: Final = 0.05

_log = structlog.get_logger(__name__)


class PeerSilent(Rejected):
    """A peer began something and did not finish it in time."""

    code = "peer_silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardLimits:
    """How much one peer may take.

    Attributes:
        connections: open at once.
        message_bytes: of one message, as sent and inflated.
        handshake_seconds: until a peer has proven who it is.
        message_seconds: from a message's first byte to its last.
        idle_seconds: between two messages.
    """

    connections: int
    message_bytes: int
    handshake_seconds: float
    message_seconds: float
    idle_seconds: float


class ForwardConnection:
    """Serves one peer."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        access: Access,
        intake: ForwardIntake,
        limits: ForwardLimits,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._access = access
        self._intake = intake
        self._limits = limits
        self._framer = Framer(MAX_HANDSHAKE_BYTES)
        self._address = _shown(writer.get_extra_info("peername"))
        self._task: asyncio.Task[None] | None = None
        self._sealing = False
        self._finishing = False
        self.peer: Peer | None = None

    async def serve(self) -> None:
        """Return when the connection is over; whatever ended it is counted and logged."""
        self._task = asyncio.current_task()
        try:
            self.peer = await self._admit()
            self._framer.limit(self._limits.message_bytes)
            while not self._finishing and await self._serve_batch(self.peer):
                pass
        except KlyraError as error:
            await self._note(error)
        except (OSError, EOFError) as error:
            _log.info("forward_connection_lost", peer=self._address, reason=str(error) or type(error).__name__)
        except Exception:  # noqa: BLE001 - whatever it is, it must not end the others
            # Nothing was acknowledged: a fault of ours ends this connection, and no other.
            _log.exception("forward_failed", peer=self._address)
            self._intake.metrics.refused("internal")
        finally:
            self._writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(self._writer.wait_closed(), self._limits.handshake_seconds)

    def finish(self) -> None:
        """Take nothing more; what is being sealed is still acknowledged."""
        self._finishing = True
        if self._task is not None and not self._sealing:
            self._task.cancel()

    def cut(self) -> None:
        """End it now."""
        self._writer.transport.abort()

    async def _admit(self) -> Peer:
        """Return who sends, with a key that may emit; `KlyraError` for a stranger."""
        try:
            async with asyncio.timeout(self._limits.handshake_seconds):
                binding = await self._identify()
        except TimeoutError as error:
            raise PeerSilent("No handshake came.", remedy="Give the sender the shared key.") from error
        return Peer(binding.source, binding.key_text, self._address)

    async def _identify(self) -> Binding:
        access = self._access
        if access.shared_key is None:
            binding = access.unnamed()
            await self._intake.ingest.senders.authenticate(binding.key_text)
            return binding
        helo = Helo.draw(with_users=access.with_users)
        await self._write(helo.encode())
        try:
            ping = Ping.decode(await self._handshake_message())
            binding = access.check(ping, helo)
            await self._intake.ingest.senders.authenticate(binding.key_text)
        except HandshakeFailed as error:
            await self._write(Pong.refusing(str(error)).encode())
            raise
        except (Rejected, Paused):
            await self._write(Pong.refusing("The collector's own key for this sender is refused.").encode())
            raise
        await self._write(Pong.accepting(ping, helo, hostname=access.hostname, shared_key=access.shared_key).encode())
        return binding

    async def _handshake_message(self) -> bytes:
        while True:
            for message in self._framer.messages():
                return message
            received = await self._reader.read(_READ_BYTES)
            if not received:
                raise EOFError("closed during the handshake")
            self._framer.feed(received)

    async def _serve_batch(self, peer: Peer) -> bool:
        """Take the messages that have arrived, at least one; return False when the peer has closed."""
        if not self._framer.held:
            # Nothing is reserved for a peer that says nothing.
            received = await self._await_message(peer)
            if not received:
                return False
            self._framer.feed(received)
        sender = await self._intake.sender(peer)
        with self._intake.ingest.reservation(sender) as reservation:
            await self._hold(reservation, self._framer.held)
            raw, trouble = await self._read_messages(reservation)
            self._sealing = True
            try:
                messages, broken = await self._decode(raw, reservation)
                await self._seal(messages, peer)
            finally:
                self._sealing = False
            error = broken or trouble
            if error is not None:
                raise error
            return True

    async def _await_message(self, peer: Peer) -> bytes:
        """Return the first bytes of a message, b"" if the peer has closed or says nothing for too long."""
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                return await self._reader.read(_READ_BYTES)
        except TimeoutError:
            _log.info("forward_idle", peer=peer.address, source=peer.source)
            return b""

    async def _read_messages(self, reservation: Reservation) -> tuple[list[bytes], KlyraError | None]:
        """Return whole messages, at least one, or why there can be none after those before it."""
        raw: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.message_seconds):
                while True:
                    raw.extend(self._framer.messages())
                    if raw:
                        return raw, None
                    await self._read_on(reservation)
        except (NotForward, MessageTooLarge) as error:
            return raw, error
        except TimeoutError as error:
            raise PeerSilent(
                "A message broke off.", remedy="Nothing of it was taken; the sender may connect again."
            ) from error

    async def _read_on(self, reservation: Reservation) -> None:
        received = await self._reader.read(_READ_BYTES)
        if not received:
            raise EOFError("closed in the middle of a message")
        await self._hold(reservation, len(received))
        self._framer.feed(received)

    async def _hold(self, reservation: Reservation, count: int) -> None:
        """Account for bytes before they are kept; wait, and read nothing, while others have them all."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                reservation.hold(count)
            except Overloaded:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return

    async def _decode(self, raw: list[bytes], reservation: Reservation) -> tuple[list[Message], KlyraError | None]:
        """Return the messages before the first that is none, and what is wrong with that one."""
        messages: list[Message] = []
        for item in raw:
            try:
                message = await self._decode_one(item, reservation)
            except KlyraError as error:
                return messages, error
            if message is not None:
                messages.append(message)
        return messages, None

    async def _decode_one(self, raw: bytes, reservation: Reservation) -> Message | None:
        limit = self._limits.message_bytes
        if len(raw) < _LARGE_BYTES:
            return decode_message(raw, max_inflated_bytes=limit, hold=reservation.hold)
        loop = asyncio.get_running_loop()

        def hold(count: int) -> None:
            asyncio.run_coroutine_threadsafe(self._hold(reservation, count), loop).result()

        # A large message takes long enough for others to notice.
        return await asyncio.to_thread(decode_message, raw, max_inflated_bytes=limit, hold=hold)

    async def _seal(self, messages: list[Message], peer: Peer) -> None:
        """Seal messages and acknowledge each that is durable; raise the first error after that."""
        units = self._intake.units(messages)
        results = await asyncio.gather(*(self._intake.seal(unit, peer) for unit in units), return_exceptions=True)
        await self._write(b"".join(result for result in results if isinstance(result, bytes)))
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _write(self, answer: bytes) -> None:
        if answer:
            self._writer.write(answer)
            await self._writer.drain()

    async def _note(self, error: KlyraError) -> None:
        source = self.peer.source if self.peer else None
        _log.warning("forward_closed", peer=self._address, source=source, code=error.code, reason=str(error))
        self._intake.metrics.refused(error.code)
        await self._intake.ingest.noted(error, ENDPOINT)


def _shown(address: object) -> str:
    """Return a peer's address as people write it."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
