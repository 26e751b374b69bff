"""Where servers listen, and with which certificates: what cannot be used says so."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from klyra_collector.config import BadConfiguration, OtlpHttpSettings, Settings, TlsSettings
from klyra_collector.receive.listening import PortTaken, address_of, clear_stale, listen, unlinked_at_end
from klyra_collector.receive.tls import ReloadingTls, TlsServers, TlsUnusable, load_tls
from support.certificates import Authority

SETTING = "otlp.http.listen"


class Noted:
    """Remembers what certificates report."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self.refused: list[str] = []

    def certificate_used(self, listener: str, expires_at: float) -> None:
        """Remember when it expires."""
        self.used.append(expires_at)

    def certificate_refused(self, listener: str) -> None:
        """Remember the listener."""
        self.refused.append(listener)


class TestPorts:
    """host:port."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
    def test_port_0_takes_a_free_one(self, host) -> None:
        """The address says which; an IPv6 host keeps its brackets."""
        with unlinked_at_end(listen(OtlpHttpSettings(listen=f"{host}:0"), SETTING)) as bound:
            name, _, port = address_of(bound).rpartition(":")
            assert (name, int(port) > 0) == (host, True)

    def test_a_taken_port_is_named_with_its_setting_and_variable(self) -> None:
        """Somebody must act."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            listener = OtlpHttpSettings(listen=f"127.0.0.1:{other.getsockname()[1]}")
            with pytest.raises(PortTaken, match=r"KLYRA_OTLP__HTTP__LISTEN") as caught:
                listen(listener, SETTING)
        assert (caught.value.code, bool(caught.value.remedy)) == ("port_taken", True)


class TestUnixSockets:
    """unix:/path."""

    def test_the_file_has_the_mode_that_is_configured_and_goes_at_the_end(self, tmp_path) -> None:
        """Nobody else may connect unless that is wanted."""
        path = tmp_path / "otlp.sock"
        for text, mode in (("0600", 0o600), ("660", 0o660)):
            listener = OtlpHttpSettings(listen=f"unix:{path}", socket_mode=text)
            with unlinked_at_end(listen(listener, SETTING)) as bound:
                assert (path.stat().st_mode & 0o777, address_of(bound)) == (mode, f"unix:{path}")
            assert not path.exists()

    def test_a_file_that_is_no_socket_is_left_alone(self, tmp_path) -> None:
        """It is somebody's data."""
        path = tmp_path / "data"
        path.write_text("precious")
        with pytest.raises(PortTaken, match="not a socket"):
            listen(OtlpHttpSettings(listen=f"unix:{path}"), SETTING)
        assert path.read_text() == "precious"

    def test_a_live_socket_is_taken_and_a_dead_one_replaced(self, tmp_path) -> None:
        """Whether anybody answers tells them apart."""
        path = tmp_path / "otlp.sock"
        listener = OtlpHttpSettings(listen=f"unix:{path}")
        with listen(listener, SETTING) as first:
            first.listen()
            with pytest.raises(PortTaken, match="another program answers") as caught:
                listen(listener, SETTING)
            assert caught.value.code == "port_taken"
        with listen(listener, SETTING):
            assert path.exists()

    def test_a_folder_that_is_not_there_is_named(self, tmp_path) -> None:
        """The reason is the system's own."""
        with pytest.raises(PortTaken, match="No such file"):
            listen(OtlpHttpSettings(listen=f"unix:{tmp_path}/none/x.sock"), SETTING)

    def test_a_socket_that_cannot_be_asked_is_taken(self, tmp_path) -> None:
        """One of another kind does not answer as ours would."""
        path = tmp_path / "datagrams.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(path))
            with pytest.raises(PortTaken):
                clear_stale(path, SETTING)

    @pytest.mark.parametrize("listen", ["unix:relative.sock", "unix:", "127.0.0.1", "x:70000"])
    def test_another_address_is_bad_configuration(self, listen, tmp_path, monkeypatch) -> None:
        """It says what would be one."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("KLYRA_OTLP__GRPC__LISTEN", listen)
        with pytest.raises(BadConfiguration, match="such as"):
            Settings.load()


class TestCertificates:
    """What the files hold."""

    def settings(self, folder, **members) -> TlsSettings:
        """Return settings of a new certificate in a folder."""
        files = Authority(folder).issue("server")
        return TlsSettings(certificate=files.certificate, key=files.key, **members)

    def test_without_settings_there_is_no_tls(self) -> None:
        """Plain text."""
        assert load_tls(None, "x", Noted()) is None

    def test_the_least_version_and_client_certificates_are_as_configured(self, tmp_path) -> None:
        """1.2 by default."""
        tls = ReloadingTls(self.settings(tmp_path), "x", Noted())
        assert (tls.context.minimum_version, tls.context.verify_mode) == (ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE)
        settings = self.settings(tmp_path, min_version="1.3", client_ca=tmp_path / "authority.pem")
        strict = ReloadingTls(settings, "x", Noted())
        assert (strict.context.minimum_version, strict.context.verify_mode) == (
            ssl.TLSVersion.TLSv1_3,
            ssl.CERT_REQUIRED,
        )

    def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(self, tmp_path) -> None:
        """Nobody sits at the terminal."""
        settings = self.settings(tmp_path)
        key = serialization.load_pem_private_key(settings.key.read_bytes(), None)
        encryption = serialization.BestAvailableEncryption(b"secret")
        settings.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        with pytest.raises(TlsUnusable, match="encrypted") as caught:
            ReloadingTls(settings, "otlp.http.tls", Noted())
        assert (caught.value.code, bool(caught.value.remedy)) == ("tls_unusable", True)

    @pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
    @pytest.mark.parametrize("content", [None, b"", b"garbage", b"\xff"])
    def test_each_file_must_be_there_and_right(self, tmp_path, name, content) -> None:
        """At the start it is an error; later it changes nothing and is noted once."""
        settings, noted = self.settings(tmp_path, client_ca=tmp_path / "authority.pem"), Noted()
        tls = ReloadingTls(settings, "x", noted)
        before, path = tls.context, getattr(settings, name)
        path.unlink() if content is None else path.write_bytes(content)
        assert not tls.reload()
        assert not tls.reload()
        assert (tls.context is before, noted.refused) == (True, ["x"])
        with pytest.raises(TlsUnusable):
            ReloadingTls(settings, "x", noted)

    def test_the_same_content_written_again_is_nothing_new(self, tmp_path) -> None:
        """Connections keep their server."""
        settings = self.settings(tmp_path)
        tls = ReloadingTls(settings, "x", Noted())
        settings.key.write_bytes(settings.key.read_bytes())
        assert not tls.reload()

    def test_connections_of_the_server_before_go_on(self, tmp_path, monkeypatch) -> None:
        """A new one is opened on the same socket; who is connected stays so."""
        monkeypatch.setattr("klyra_collector.receive.tls.CHECK_SECONDS", 0.05)
        authority = Authority(tmp_path)
        files = authority.issue("first", "server")
        tls = ReloadingTls(TlsSettings(certificate=files.certificate, key=files.key), "x", Noted())
        context = ssl.create_default_context(cafile=str(authority.certificate))

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        async def exchange(port: int, standing: list) -> bool:
            reader, writer = standing or await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            standing[:] = [reader, writer]
            return True

        async def story() -> None:
            with listen(OtlpHttpSettings(listen="127.0.0.1:0"), SETTING) as bound:
                servers = TlsServers(bound, tls, lambda sock, ssl: asyncio.start_server(echo, sock=sock, ssl=ssl))
                await servers.start()
                standing: list = []
                port = bound.getsockname()[1]
                await exchange(port, standing)
                before = tls.context
                authority.issue("second", "server")
                while tls.context is before:  # noqa: ASYNC110 - files tell nobody that they changed
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.05)
                await exchange(port, standing)
                fresh: list = []
                await exchange(port, fresh)
                for _, writer in (standing, fresh):
                    writer.close()
                    await writer.wait_closed()
                await servers.close()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", port)

        asyncio.run(asyncio.wait_for(story(), 30))
