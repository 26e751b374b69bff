"""Settings: file, environment, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from klyra_collector.config import BadConfiguration, Listener, Settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty directory without settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("KLYRA_DATA", "KLYRA_API__LISTEN", "KLYRA_REQUIRE_PEERS"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_need_no_file() -> None:
    """Everything binds to loopback and lies in one directory."""
    settings = Settings.load()
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8080)
    assert settings.otlp.http.listen == "127.0.0.1:4318"
    assert settings.registry_url == f"sqlite:///{Path('klyra-data/registry.sqlite').absolute()}"
    assert settings.store_path == Path("klyra-data/store.sqlite").absolute()


def test_the_file_in_the_working_directory_is_read(tmp_path) -> None:
    """klyra-audit.toml is found without being named."""
    (tmp_path / "klyra-audit.toml").write_text('data = "elsewhere"\n[api]\nlisten = "127.0.0.1:9000"\n')
    settings = Settings.load()
    assert (settings.api.port, settings.data) == (9000, Path("elsewhere"))


def test_a_variable_wins_over_the_file_and_the_command_line_over_both(tmp_path, monkeypatch) -> None:
    """--data, then KLYRA_…, then the file."""
    path = tmp_path / "a.toml"
    path.write_text('data = "file"\n[otlp.http]\nlisten = "127.0.0.1:1"\n')
    monkeypatch.setenv("KLYRA_OTLP__HTTP__LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("KLYRA_DATA", "variable")
    assert Settings.load(path).otlp.http.port == 2
    assert Settings.load(path).data == Path("variable")
    assert Settings.load(path, data=Path("given")).data == Path("given")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("unknown = 1", "unknown"),
        ("[api]\nlisten = 'x'", "api.listen.*host:port"),
        ("[api]\nlisten = '127.0.0.1:70000'", "host:port"),
        ("[api]\nother = 1", "api.other"),
        ("[intake]\nmax_request_bytes = 0", "max_request_bytes"),
        ("not toml", "not TOML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path, text, match) -> None:
    """An unknown key or a bad value refuses, with the setting's name and a remedy."""
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(BadConfiguration, match=match) as caught:
        Settings.load(path)
    assert (caught.value.code, bool(caught.value.remedy)) == ("bad_configuration", True)


def test_a_misspelt_variable_is_an_error(monkeypatch) -> None:
    """It would be ignored in silence otherwise."""
    monkeypatch.setenv("KLYRA_APO__LISTEN", "127.0.0.1:1")
    with pytest.raises(BadConfiguration, match="KLYRA_APO__LISTEN"):
        Settings.load()


def test_a_missing_named_file_is_an_error(tmp_path) -> None:
    """Only the default file may be absent."""
    with pytest.raises(BadConfiguration, match="no configuration file"):
        Settings.load(tmp_path / "nowhere.toml")


def test_another_store_is_refused_by_name(tmp_path) -> None:
    """A store this version does not have is not silently replaced, and its password is not shown."""
    path = tmp_path / "a.toml"
    path.write_text('[store]\nurl = "mongodb://user:secret@host"\n')
    with pytest.raises(BadConfiguration) as caught:
        _ = Settings.load(path).store_path
    assert "secret" not in str(caught.value)
    assert "elasticsearch+https://" in caught.value.remedy


def test_ipv6_listeners_are_read() -> None:
    """Brackets belong to the notation, not to the host."""
    assert Listener(listen="[::1]:80").host == "::1"


def test_a_passphrase_is_given_by_reference(monkeypatch) -> None:
    """One as a value is refused without being repeated."""
    monkeypatch.setenv("KLYRA_LEDGER__KEY_PASSPHRASE", "open sesame")
    with pytest.raises(BadConfiguration) as caught:
        Settings.load()
    assert "ledger.key_passphrase" in str(caught.value)
    assert "sesame" not in str(caught.value)
    monkeypatch.setenv("KLYRA_LEDGER__KEY_PASSPHRASE", "env:LEDGER_PASSPHRASE")
    assert Settings.load().ledger.key_passphrase == "env:LEDGER_PASSPHRASE"


class TestDestinations:
    """`[[destination]]`."""

    @staticmethod
    def load(tmp_path, *tables: str) -> Settings:
        """Return the settings of some destinations."""
        path = tmp_path / "destinations.toml"
        path.write_text("\n".join(f"[[destination]]\n{table}" for table in tables))
        return Settings.load(path)

    def test_what_must_be_said(self, tmp_path) -> None:
        """A name and an endpoint are enough."""
        [one] = self.load(tmp_path, 'name = "back"\nendpoint = "grpc://127.0.0.1:4317"').destination
        assert (one.kind, one.organizations, one.sign, one.start) == ("otlp", (), True, "beginning")

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('endpoint = "https://user:s3cret@host/"', "must not hold a user, password or query"),
            ('endpoint = "https://host/?token=s3cret"', "must not hold a user, password or query"),
            ('endpoint = "http://h/"\nheaders = {authorization = "s3cret"}', "not the value itself"),
            ('endpoint = "http://h/"\ncertificate_file = "a.pem"', "certificate_file and key_file go together"),
            ('endpoint = "http://h/"\nbatch_entries = 0', "greater than 0"),
            ('endpoint = "http://h/"\ncompression = "lz4"', "gzip"),
            ("", "endpoint"),
        ],
    )
    def test_what_cannot_be(self, tmp_path, line, said) -> None:
        """Mistakes are named; a secret in the file is refused and not repeated."""
        with pytest.raises(BadConfiguration, match="destination") as caught:
            self.load(tmp_path, f'name = "back"\n{line}')
        assert said in str(caught.value)
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("name", ["", "Back", "../back", "-back", "b" * 64, "a b", "back\\n"])
    def test_names_that_are_no_file_names(self, tmp_path, name) -> None:
        """A destination's files are called after it."""
        with pytest.raises(BadConfiguration, match="name"):
            self.load(tmp_path, f'name = "{name}"\nendpoint = "http://h/"')

    def test_names_are_unique(self, tmp_path) -> None:
        """Two destinations never share a cursor."""
        with pytest.raises(BadConfiguration, match="two destinations have the same name"):
            self.load(tmp_path, *['name = "back"\nendpoint = "http://h/"'] * 2)

    def test_a_secret_endpoint_is_referred_to(self, tmp_path) -> None:
        """Where a URL is itself a secret, its place is configured."""
        [one] = self.load(tmp_path, 'name = "back"\nendpoint = "env:BACK_URL"').destination
        assert one.endpoint == "env:BACK_URL"
