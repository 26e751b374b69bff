"""The application: the query API and the built-in page over a registry and a store (DESIGN section 7)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog
from anyio import CapacityLimiter
from fastapi import FastAPI

from klyra_audit.errors import KlyraError
from klyra_collector.query import (
    account,
    entries,
    exports,
    log,
    operation,
    problems,
    proofs,
    quarantine_replay,
    sessions,
    summary,
)
from klyra_collector.query import destinations as destination_routes
from klyra_collector.query import packets as packet_routes
from klyra_collector.query import quarantine as quarantine_routes
from klyra_collector.query.cursor import CursorCodec
from klyra_collector.query.dashboard import routes_of
from klyra_collector.query.headers import PrivateAnswers
from klyra_collector.query.metrics import CountRequests, Followers, QueryMetrics
from klyra_collector.query.models import ProblemDocument
from klyra_collector.query.services import Services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from importlib.resources.abc import Traversable

    from klyra_audit.catalog import Catalog
    from klyra_collector.query.destinations import DestinationRules
    from klyra_collector.query.quarantine import Quarantine
    from klyra_collector.query.services import PublicLog
    from klyra_collector.registry import Registry
    from klyra_collector.registry.policies import Policies
    from klyra_collector.store.searching import Store

_THREADS = 16
_CLOSING_SECONDS = 30.0
_STAGES = (
    *(summary, entries, proofs, exports, packet_routes, quarantine_routes, quarantine_replay),
    *(destination_routes, sessions, account, log, operation),
)

_log = structlog.get_logger(__name__)


def create_app(  # noqa: PLR0913 - each is an object that main has built
    *,
    registry: Registry,
    store: Store,
    catalog: Catalog,
    policies: Policies,
    dashboard: Traversable | None,
    clock: Callable[[], int],
    cursor_key: bytes,
    followers: Followers | None = None,
    public_log: PublicLog | None = None,
    quarantine: Quarantine | None = None,
    destinations: DestinationRules | None = None,
) -> FastAPI:
    """Return the application; nothing runs before the server starts it.

    Args:
        registry: organizations, keys, sessions, self-auditing.
        store: where entries are searched.
        catalog: known event types.
        policies: what each plan gives.
        dashboard: folder of the page; None serves none.
        clock: present time, microseconds since 1970.
        cursor_key: secret that signs page cursors; all servers of one registry share it.
        followers: how far each is behind, for the metrics; None shows nothing of them.
        public_log: the ledger beside the API, which it publishes and proves entries from; None does neither.
        quarantine: what quarantined input is read from; None lists none.
        destinations: what organizations may set up for themselves; None lets them nothing.
    """
    services = Services(
        registry=registry,
        store=store,
        catalog=catalog,
        policies=policies,
        cursors=CursorCodec(cursor_key),
        metrics=QueryMetrics(),
        clock=clock,
        threads=CapacityLimiter(_THREADS),
        log=public_log,
        quarantine=quarantine,
        destinations=destinations,
    )
    if quarantine is not None:
        services.metrics.watch_quarantine(lambda: quarantine.store.quarantine_backlog(services.today()), clock)
    if followers is not None:
        services.metrics.watch(followers)
    app = FastAPI(
        title="Klyra audit logs",
        version=version("klyra-audit"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(services),
        responses={"default": {"model": ProblemDocument, "description": "A refusal (RFC 9457)."}},
    )
    for stage in _STAGES:
        app.include_router(stage.router(services))
    if dashboard is not None:
        app.router.routes.extend(routes_of(dashboard))
    problems.install(app)
    app.add_middleware(PrivateAnswers)
    app.add_middleware(CountRequests, metrics=services.metrics)
    return app


def _lifespan(services: Services) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        closing = asyncio.create_task(_close_read_windows(services))
        try:
            yield
        finally:
            closing.cancel()
            with suppress(asyncio.CancelledError):
                await closing

    return run


async def _close_read_windows(services: Services) -> None:
    """Record the counts of merged reads once their time is over, now and then again."""
    while True:
        try:
            await services.blocking(services.registry.close_read_windows)
        except KlyraError as error:
            _log.warning("query.read_windows_not_closed", reason=str(error), code=error.code)
        await asyncio.sleep(_CLOSING_SECONDS)
