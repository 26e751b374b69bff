"""Settings: `klyra-audit.toml`, every key overridable by a `KLYRA_…` variable; unknown keys are errors.

Secrets are given by reference, `env:NAME` or `file:PATH`, never as values (DESIGN section 10).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from klyra_audit.errors import Rejected
from klyra_audit.mapping.table import Additions, BadMapping, EventTypeRule
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_settings import DestinationSettings  # noqa: TC001 - pydantic reads it
from klyra_collector.elasticsearch_settings import ElasticsearchSettings
from klyra_collector.receive.body import MAX_REQUEST_BYTES
from klyra_collector.receive.ingest import MAX_INFLIGHT_BYTES
from klyra_collector.seal.recent import LEAST_DAYS
from klyra_collector.seal.sealer import MAX_WAITING_BYTES, MAX_WAITING_SECONDS
from klyra_collector.secret_reference import is_reference
from klyra_collector.self_service_settings import SelfServiceSettings

DEFAULT_FILE = Path("klyra-audit.toml")
DEFAULT_DATA = Path("klyra-data")
PREFIX = "KLYRA_"

_MAX_PORT = 65535
_UNIX = "unix:"


class BadConfiguration(Rejected):
    """The configuration file or a variable cannot be used."""

    code = "bad_configuration"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listener(_Section):
    """Where a server listens.

    Attributes:
        listen: `host:port`; port 0 takes a free one.
    """

    listen: str

    @field_validator("listen")
    @classmethod
    def _has_port(cls, value: str) -> str:
        host, separator, port = value.rpartition(":")
        if not separator or not host or not port.isdecimal() or int(port) > _MAX_PORT:
            raise ValueError("must be host:port, such as 127.0.0.1:4318")
        return value

    @property
    def host(self) -> str:
        """The host to bind to, IPv6 without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to bind to; 0 for any."""
        return int(self.listen.rpartition(":")[2])

    @property
    def socket_path(self) -> Path | None:
        """The file of a Unix socket to bind to; None for a port."""
        return None

    @property
    def mode(self) -> int:
        """The permissions of that file."""
        return 0o600


class SocketListener(Listener):
    """Where a server listens that can also be reached by a Unix socket.

    Attributes:
        listen: `host:port`, or `unix:/path`.
        socket_mode: the socket file's permissions, octal.
    """

    socket_mode: str = Field("0600", pattern="^0?[0-7]{3}$")

    @field_validator("listen")
    @classmethod
    def _has_port(cls, value: str) -> str:
        if value.startswith(_UNIX):
            if not Path(value.removeprefix(_UNIX)).is_absolute():
                raise ValueError("must name an absolute path, such as unix:/run/klyra-audit/otlp.sock")
            return value
        return super()._has_port(value)

    @property
    def socket_path(self) -> Path | None:
        """The file of a Unix socket to bind to; None for a port."""
        return Path(self.listen.removeprefix(_UNIX)) if self.listen.startswith(_UNIX) else None

    @property
    def mode(self) -> int:
        """The permissions of that file."""
        return int(self.socket_mode, 8)


class TlsSettings(_Section):
    """Certificates of a server; the files are read again when they change.

    Attributes:
        certificate: PEM, the server's own first, then what leads to its authority.
        key: PEM, unencrypted.
        client_ca: PEM certificates of the authorities whose clients may connect (mutual TLS); None for anybody.
        min_version: of TLS, `1.2` or `1.3`.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"


class GrpcTlsSettings(TlsSettings):
    """Certificates of the gRPC server, whose library speaks TLS 1.2 and 1.3."""

    min_version: Literal["1.2"] = "1.2"


class OtlpHttpSettings(SocketListener):
    """OTLP over HTTP.

    Attributes:
        tls: certificates; None for plain HTTP.
        max_connections: open at once; a new one then ends the one that has been silent longest.
        header_seconds: for a request's headers, from its first byte.
        body_seconds: for its body.
        idle_seconds: from an answer to the connection's next request.
    """

    listen: str = "127.0.0.1:4318"
    tls: TlsSettings | None = None
    max_connections: int = Field(2000, gt=0)
    header_seconds: float = Field(10, gt=0)
    body_seconds: float = Field(60, gt=0)
    idle_seconds: float = Field(75, gt=0)


class OtlpGrpcSettings(SocketListener):
    """OTLP over gRPC.

    Attributes:
        tls: certificates; None for plain text.
        max_connections: open at once.
        max_concurrent_streams: requests under way on one connection; a client waits with more.
        body_seconds: for a request's message.
        keepalive_seconds: after which a silent connection is asked whether anybody is there.
        idle_seconds: after which a connection without requests is closed.
    """

    listen: str = "127.0.0.1:4317"
    tls: GrpcTlsSettings | None = None
    max_connections: int = Field(2000, gt=0)
    max_concurrent_streams: int = Field(100, gt=0)
    body_seconds: float = Field(60, gt=0)
    keepalive_seconds: float = Field(60, ge=10)
    idle_seconds: float = Field(600, gt=0)


class Otlp(_Section):
    """OTLP receivers."""

    http: OtlpHttpSettings = OtlpHttpSettings()
    grpc: OtlpGrpcSettings = OtlpGrpcSettings()


class ForwardUser(_Section):
    """A Forward peer that has a user of its own.

    Attributes:
        user: its name in the handshake.
        password: reference to its password, `env:NAME` or `file:PATH`.
        key: reference to the emit key that its entries are sealed with.
    """

    user: str = Field(min_length=1)
    password: str
    key: str

    @field_validator("password", "key")
    @classmethod
    def _refers(cls, value: str) -> str:
        if not is_reference(value):
            raise ValueError("must be env:NAME or file:PATH, not the secret itself")
        return value


class ForwardSettings(SocketListener):
    """The Fluent Forward receiver; it starts when it knows which key its peers send with.

    Attributes:
        hostname: the collector's name in the handshake; None takes this machine's.
        shared_key: reference to the shared key; None for no handshake.
        key: reference to the emit key of peers without a user.
        clients: peers with a user.
        open: without a shared key or client certificates, listen where others than this machine can connect.
        tls: certificates; None for plain TCP.
        event_types: pattern of tags → event type, for records that name none; the first match wins.
        max_connections: open at once.
        handshake_seconds: until a peer has proven who it is.
        message_seconds: from a message's first byte to its last.
        idle_seconds: between two messages.
    """

    listen: str = "127.0.0.1:24224"
    hostname: str | None = None
    shared_key: str | None = None
    key: str | None = None
    clients: tuple[ForwardUser, ...] = ()
    open: bool = False
    tls: TlsSettings | None = None
    event_types: dict[str, str] = Field(default_factory=dict)
    max_connections: int = Field(1000, gt=0)
    handshake_seconds: float = Field(10, gt=0)
    message_seconds: float = Field(60, gt=0)
    idle_seconds: float = Field(3600, gt=0)

    @field_validator("shared_key", "key")
    @classmethod
    def _refers(cls, value: str | None) -> str | None:
        if value is not None and not is_reference(value):
            raise ValueError("must be env:NAME or file:PATH, not the secret itself")
        return value


class LedgerSettings(_Section):
    """The ledger's name, fixed at first start, the keys that sign it, and what tells a restored disk image.

    Attributes:
        name: shared by all collectors of a deployment.
        signer: `module:factory` of a signing key held elsewhere, such as in a key management service.
        outgoing_signer: the same of the key from which `signer`, or a key file, takes over.
        key_passphrase: reference to the passphrase of encrypted key files, `env:NAME` or `file:PATH`.
        cell: where the newest signed head is remembered outside this disk: `file:/path` on another mount, or
            `elasticsearch+https://host:port/index/id`.
    """

    name: str | None = None
    signer: str | None = None
    outgoing_signer: str | None = None
    key_passphrase: str | None = None
    cell: str | None = None

    @field_validator("key_passphrase")
    @classmethod
    def _refers(cls, value: str | None) -> str | None:
        if value is not None and not is_reference(value):
            raise ValueError("must be env:NAME or file:PATH, not the passphrase itself")
        return value


class CollectorSettings(_Section):
    """The collector's name, fixed at first start."""

    id: str | None = None


class IntakeSettings(_Section):
    """How much may be on its way to the ledger.

    Attributes:
        max_request_bytes: of one request, as sent and inflated.
        max_inflight_bytes: of all requests being worked on.
        max_waiting_bytes: of records waiting for the next commit.
        max_waiting_seconds: how long records may have waited when more are still taken.
        recognised_days: UTC days for which an event's id is recognised as a repeat; 2 make at least 24 hours.
        organization_events_per_second: what each organization may send in the long run; 0 for no limit.
        organization_burst: events it may send at once after a pause.
    """

    max_request_bytes: int = Field(MAX_REQUEST_BYTES, gt=0)
    max_inflight_bytes: int = Field(MAX_INFLIGHT_BYTES, gt=0)
    max_waiting_bytes: int = Field(MAX_WAITING_BYTES, gt=0)
    max_waiting_seconds: float = Field(MAX_WAITING_SECONDS, gt=0)
    recognised_days: int = Field(LEAST_DAYS, ge=LEAST_DAYS)
    organization_events_per_second: float = Field(0, ge=0)
    organization_burst: int = Field(10_000, gt=0)


class LogSettings(_Section):
    """The ledger's public face.

    Attributes:
        public_entries: entry bundles, which show who is how busy, are for everyone.
    """

    public_entries: bool = False


class StoreSettings(_Section):
    """Where entries are searched; by default `store.sqlite` in the data directory.

    Attributes:
        url: `sqlite:///PATH`, or `elasticsearch+https://HOST:9200?api_key=env:NAME` with a key that may read.
        elasticsearch: how entries get there.
    """

    url: str | None = None
    elasticsearch: ElasticsearchSettings = ElasticsearchSettings()

    @model_validator(mode="after")
    def _has_what_is_waited_for(self) -> Self:
        if self.elasticsearch.ack == "stored" and not self.is_elasticsearch:
            raise ValueError('elasticsearch.ack = "stored" needs a url that names Elasticsearch')
        return self

    @property
    def is_elasticsearch(self) -> bool:
        """Whether entries are searched in Elasticsearch."""
        return self.url is not None and self.url.startswith("elasticsearch+")


class RegistrySettings(_Section):
    """Where organizations and keys are; by default `registry.sqlite` in the data directory."""

    url: str | None = None


class WitnessSettings(_Section):
    """Who cosigns the ledger's checkpoints.

    Attributes:
        policy: a C2SP tlog-policy file with the witnesses' URLs and their quorum; None for no witness.
        interval_seconds: between one cosigned checkpoint and the next.
    """

    policy: Path | None = None
    interval_seconds: float = Field(60, gt=0)


class SigningProcessorSettings(_Section):
    """A key that may sign records on their way here: one `[[signing_processor]]` each (docs/opentelemetry-audit.md).

    Attributes:
        certificate: PEM file; or
        public_key: PEM file of a bare public key; or
        hmac_key: reference to the base64 of a shared secret, `env:NAME` or `file:PATH`.
        key_id: what records call the key when they neither show nor fingerprint its certificate.
        organization_id: whose records it may sign; None for everybody's.
        required: their records from others than our emitters must have a signature that verifies.
    """

    certificate: Path | None = None
    public_key: Path | None = None
    hmac_key: str | None = None
    key_id: str | None = None
    organization_id: str | None = None
    required: bool = False

    @model_validator(mode="after")
    def _is_one_key(self) -> Self:
        if sum(item is not None for item in (self.certificate, self.public_key, self.hmac_key)) != 1:
            raise ValueError("must have exactly one of certificate, public_key and hmac_key")
        if self.hmac_key is not None and not is_reference(self.hmac_key):
            raise ValueError("hmac_key must be env:NAME or file:PATH, not the secret itself")
        return self


class MappingRuleSettings(_Section):
    """Which event type stands for some other program's records: one `[[mapping.event_types]]` each.

    Attributes:
        match: glob over what the record itself calls the event.
        attributes: globs over values by their names; all must match.
        event_type: of the catalog.
    """

    match: str = "*"
    attributes: dict[str, str] = Field(default_factory=dict)
    event_type: str


class MappingSettings(_Section):
    """What other programs' records mean, beyond the table that is built in (docs/mapping.md).

    Attributes:
        attributes: further names by target, looked at directly after those that begin with `klyra.`.
        event_types: rules for records whose event the catalog does not know; the first match wins.
        constants: by target, what is used when nothing is found.
        values: by target, what words mean in ours.
        personal: names whose values go with the actor or the target when they are erased.
    """

    attributes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    event_types: tuple[MappingRuleSettings, ...] = ()
    constants: dict[str, str] = Field(default_factory=dict)
    values: dict[str, dict[str, str]] = Field(default_factory=dict)
    personal: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_understood(self) -> Self:
        try:
            self.additions().check()
        except BadMapping as error:
            raise ValueError(str(error)) from error
        return self

    def additions(self) -> Additions:
        """Return the settings as the mapping takes them."""
        rules = [
            EventTypeRule(match=rule.match, attributes=rule.attributes, event_type=rule.event_type)
            for rule in self.event_types
        ]
        return Additions(
            attributes=self.attributes,
            event_types=rules,
            constants=self.constants,
            values=self.values,
            personal=self.personal,
        )


class Settings(BaseSettings):
    """Everything that can be configured. Build it with `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    data: Path = DEFAULT_DATA
    ledger: LedgerSettings = LedgerSettings()
    collector: CollectorSettings = CollectorSettings()
    api: Listener = Listener(listen="127.0.0.1:8080")
    otlp: Otlp = Otlp()
    forward: ForwardSettings = ForwardSettings()
    intake: IntakeSettings = IntakeSettings()
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    registry: RegistrySettings = RegistrySettings()
    witness: WitnessSettings = WitnessSettings()
    signing_processor: tuple[SigningProcessorSettings, ...] = ()
    destination: tuple[DestinationSettings, ...] = ()
    self_service: SelfServiceSettings = SelfServiceSettings()
    mapping: MappingSettings = MappingSettings()
    confirm_clock: bool = Field(default=False, description="an operator vouches for the clock at this start")
    catalog: Path | None = Field(None, description="a catalog file of your own event types")

    @field_validator("destination")
    @classmethod
    def _names_differ(cls, value: tuple[DestinationSettings, ...]) -> tuple[DestinationSettings, ...]:
        names = [one.name for one in value]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same name")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the file."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @classmethod
    def load(cls, file: Path | None = None, *, data: Path | None = None) -> Self:
        """Return the settings of a file and the environment.

        Args:
            file: the configuration file; None takes `klyra-audit.toml` if there is one.
            data: the data directory given on the command line, which wins over both.

        Raises:
            BadConfiguration: names the setting and what is wrong with it.
        """
        members = _read(file)
        _refuse_unknown_variables()
        try:
            settings = cls(**members)
        except ValidationError as error:
            raise BadConfiguration(
                f"The configuration cannot be used: {_explain(error)}.", remedy="See `klyra-audit config show`."
            ) from error
        return settings if data is None else settings.model_copy(update={"data": data})

    @property
    def data_directory(self) -> DataDirectory:
        """The layout of the data directory."""
        return DataDirectory(self.data.absolute())

    @property
    def registry_url(self) -> str:
        """The registry's database."""
        return self.registry.url or self.data_directory.registry_url

    @property
    def store_path(self) -> Path:
        """The embedded store's file; `BadConfiguration` if another kind of store is configured."""
        url = self.store.url
        if url is None:
            return self.data_directory.store
        if url.startswith("sqlite:///"):
            return Path(url.removeprefix("sqlite:///"))
        raise BadConfiguration(
            f"store.url {url.partition(':')[0]}:… is no store of this version.",
            remedy="Use sqlite:///PATH or elasticsearch+https://HOST:9200.",
        )


def _read(file: Path | None) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    if file is None and not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise BadConfiguration(f"There is no configuration file {path}.", remedy="Check --config.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path} is not TOML: {error}.", remedy="Mend it there.") from error


def _refuse_unknown_variables() -> None:
    """A misspelt variable would otherwise be ignored in silence."""
    known = {name.upper() for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in _NOT_SETTINGS:
            name = variable.removeprefix(PREFIX).partition("__")[0]
            if name not in known:
                raise BadConfiguration(
                    f"{variable} names no setting.", remedy=f"Settings begin with {', '.join(sorted(known))}."
                )


_NOT_SETTINGS = frozenset(
    {
        "KLYRA_KEY",
        "KLYRA_REQUIRE_PEERS",
        "KLYRA_AUDIT_ENDPOINT",
        "KLYRA_AUDIT_API_KEY",
        "KLYRA_AUDIT_ORGANIZATION_ID",
        "KLYRA_AUDIT_SPOOL",
    }
)


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'configuration'}: {problem['msg']}"
        for problem in error.errors()
    )
