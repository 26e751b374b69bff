"""`klyra-audit demo`: everything on one machine, with an example organization and live traffic (DESIGN section 10)."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import httpx
import typer

from klyra_audit.catalog import Catalog
from klyra_audit.errors import KlyraError
from klyra_collector.cli.administration import COULD_NOT, answer, operator, say
from klyra_collector.config import (
    CollectorSettings,
    LedgerSettings,
    RegistrySettings,
    Settings,
    StoreSettings,
)
from klyra_collector.demo.companions import SERVICE, example_traffic, moderation_service
from klyra_collector.demo.organization import ORGANIZATION_ID, prepare_organization, sign_in_link
from klyra_collector.demo.ports import addresses, choose, port_of, with_addresses
from klyra_collector.logs import configure_logs
from klyra_collector.registry import Registry
from klyra_collector.seal.lock import LedgerLock
from klyra_collector.supervise.supervisor import Supervisor

if TYPE_CHECKING:
    from klyra_collector.demo.organization import DemoKeys
    from klyra_collector.supervise.supervisor import ExtraProcess, RunInfo

DEFAULT_DATA: Final = Path(".klyra-demo")

# Whatever is configured for a deployment, the demo is none of its collectors and writes to none of its databases.
_OWN: Final = {
    "ledger": LedgerSettings(),
    "collector": CollectorSettings(),
    "registry": RegistrySettings(),
    "store": StoreSettings(),
}
_SERVICE_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 0.1
_NAME: Final = "klyra-audit"
_SERVICE_ADDRESS: Final = "127.0.0.1:8090"

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What will run.

    Attributes:
        settings: with ports that are free.
        service: `host:port` of the example moderation service; None without traffic.
    """

    settings: Settings
    service: str | None


_SPOOL = "emitter-spool"  # of the example service; an application of yours has its own


@app.command()
def demo(
    *,
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Where its data live, and continue on the next run.")
    ] = DEFAULT_DATA,
    no_traffic: Annotated[
        bool, typer.Option("--no-traffic", help="Leave out the example service and its use.")
    ] = False,
) -> None:
    """Start everything with an example organization and live example traffic, until Ctrl-C.

    It prints a link that opens the dashboard, and commands to try next. Ports that are taken are moved, with a
    notice. Configured names, registry and store are left alone: the demo has its own.
    """
    configure_logs("demo")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = _run(data, traffic=not no_traffic)
    except KeyboardInterrupt:  # while it was starting
        status = 0
    except (KlyraError, OSError) as error:
        say(f"Error: {error}")
        status = COULD_NOT
    sys.exit(status)


def _run(data: Path, *, traffic: bool) -> int:
    """Start everything, say how to use it, and watch; return the exit status."""
    plan = _plan(data, traffic=traffic)
    settings = plan.settings
    settings.data_directory.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    LedgerLock(settings.data_directory.ledger).release()  # a demo that runs there keeps its keys
    with Registry.open(settings.registry_url, Catalog.load(settings.catalog)) as registry:
        keys = prepare_organization(registry, by=operator())
        supervisor = Supervisor(settings, extra=_companions(plan, keys), restart=False)
        try:
            running = supervisor.start(say)
            _await_service(plan.service)
            link = sign_in_link(registry, running.api or "", by=operator())
            answer(_welcome(data, plan, running, keys, link))
            status = supervisor.wait()
        finally:
            supervisor.stop()  # an interruption may come at any point; stopping again does nothing
    say("The demo has stopped." if status == 0 else "A process of the demo ended, so all of it has stopped.")
    return status


def _await_service(service: str | None) -> None:
    """Return when the example service answers, so that what is printed next works at once.

    One that does not come up in time has ended, which the supervisor notices and says.
    """
    deadline = time.monotonic() + _SERVICE_SECONDS
    while service is not None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://{service}/healthz")
            return
        time.sleep(_PAUSE_SECONDS)


def _plan(data: Path, *, traffic: bool) -> _Plan:
    """Decide where everything listens, and say what had to move."""
    settings = Settings.load(data=data).model_copy(update=_OWN)
    wanted = addresses(settings) | ({SERVICE: _SERVICE_ADDRESS} if traffic else {})
    chosen = choose(wanted)
    for name, address in wanted.items():
        if port_of(address) not in {0, port_of(chosen[name])}:
            say(f"{name}: port {port_of(address)} is taken, using {port_of(chosen[name])}")
    return _Plan(with_addresses(settings, chosen), chosen.get(SERVICE))


def _companions(plan: _Plan, keys: DemoKeys) -> list[ExtraProcess]:
    if plan.service is None:
        return []
    endpoint = f"http://{plan.settings.otlp.http.listen}"
    return [
        moderation_service(
            listen=plan.service,
            endpoint=endpoint,
            emit_key=keys.emit,
            spool=plan.settings.data_directory.root / _SPOOL,
        ),
        example_traffic(service=f"http://{plan.service}"),
    ]


def _welcome(data: Path, plan: _Plan, running: RunInfo, keys: DemoKeys, link: str) -> str:
    """Return what to do now, each step a title and one line to open or to paste."""
    of_data = f"--data {shlex.quote(str(data))}"
    ask = f'curl -H "Authorization: Bearer {keys.read}" "{running.api}/v1/audit-logs?limit=3"'
    steps = {
        "Open the dashboard; this link signs one browser in, once, for the next 10 minutes": link,
        "Ask the API": ask,
        "Add an entry of your own": _own_entry(plan, keys, of_data),
        "Verify the ledger": f"{program()} verify {shlex.quote(str(data))}",
        "Export": f"{program()} export audit-logs.csv --key {keys.read} {of_data}",
    }
    lines = [f"{title}:\n    {line}\n" for title, line in steps.items()]
    return "\n".join(["", *lines, f"The data are in {data.absolute()}. Ctrl-C stops the demo; the next run continues."])


def _own_entry(plan: _Plan, keys: DemoKeys, of_data: str) -> str:
    if plan.service is None:
        return (
            f"{program()} emit user.added --org {ORGANIZATION_ID} --actor user:usr_1 --resource user:usr_2 "
            f"--key {keys.emit} {of_data}"
        )
    return (
        f"curl http://{plan.service}/v1/moderations -H 'X-User-Id: usr_owner' "
        "-H 'Content-Type: application/json' -d '{\"text\": \"What a stupid idea, you idiot\"}'"
    )


def program() -> str:
    """Return how to call this program from here: by its name where that is found, else as it was called."""
    called = Path(sys.argv[0])
    if called.name != _NAME:
        return shlex.join([sys.executable, "-m", "klyra_collector"])
    return _NAME if shutil.which(_NAME) else shlex.quote(sys.argv[0])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
