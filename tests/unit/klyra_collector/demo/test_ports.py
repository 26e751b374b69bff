"""Ports for the demo."""

from __future__ import annotations

import socket
from contextlib import contextmanager

import pytest

from klyra_collector.config import Settings
from klyra_collector.demo.ports import CannotListen, addresses, choose, port_of, with_addresses


@contextmanager
def taken_port():
    """Listen on some port as another program would, and give it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_free_port_is_kept() -> None:
    """Where nobody listens, the demo does as configured."""
    with taken_port() as port:
        pass
    wanted = {"api.listen": f"127.0.0.1:{port}"}
    assert choose(wanted) == wanted


def test_a_taken_port_moves_to_the_next_free_one() -> None:
    """The demo moves a little up, so that the address is still recognisable."""
    with taken_port() as port:
        chosen = choose({"api.listen": f"127.0.0.1:{port}"})["api.listen"]
    assert chosen.startswith("127.0.0.1:")
    assert port < port_of(chosen) <= port + 20


def test_port_0_becomes_a_port_that_can_be_told_to_others() -> None:
    """The service must know where the collector listens before it does."""
    assert port_of(choose({"api.listen": "127.0.0.1:0"})["api.listen"]) > 0


def test_two_servers_never_get_the_same_port() -> None:
    """What is chosen for one is not free for the next."""
    with taken_port() as port:
        pass
    same = f"127.0.0.1:{port}"
    chosen = choose({"api.listen": same, "otlp.http.listen": same})
    assert chosen["api.listen"] != chosen["otlp.http.listen"]


def test_the_last_ports_of_all_are_tried_without_leaving_the_range() -> None:
    """A wanted port at the end of the range has few neighbours; then any port will do."""
    assert 0 < port_of(choose({"api.listen": "127.0.0.1:65535"})["api.listen"]) <= 65535


def test_an_ipv6_host_keeps_its_brackets() -> None:
    """What is chosen is written as it was configured."""
    if not socket.has_ipv6:
        pytest.skip("for want of IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("for want of IPv6")
    assert choose({"api.listen": "[::1]:0"})["api.listen"].startswith("[::1]:")


def test_a_host_of_another_machine_is_refused() -> None:
    """No port helps where the host is not ours; the error names the setting and says what to do."""
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1, on any port, for api\.listen") as caught:
        choose({"api.listen": "192.0.2.1:8080"})
    assert caught.value.code == "cannot_listen"
    assert caught.value.remedy == "Name a host of this machine there, such as 127.0.0.1."


def test_every_address_of_the_settings_is_found_and_can_be_moved() -> None:
    """Addresses are found by the names their settings have, however deep, and replaced by them."""
    settings = Settings()
    found = addresses(settings)
    assert found.items() >= {"api.listen": "127.0.0.1:8080", "otlp.http.listen": "127.0.0.1:4318"}.items()
    elsewhere = {name: f"127.0.0.1:{9000 + number}" for number, name in enumerate(found)}
    moved = with_addresses(settings, elsewhere)
    assert addresses(moved) == elsewhere
    assert moved.intake == settings.intake
    assert settings.api.port == 8080
