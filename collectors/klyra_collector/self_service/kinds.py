"""Which kinds of destinations organizations are offered, and what each asks for. What forms are made of.

An option that would let them use what is the machine's own (a profile, a role, another authority) is not offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ENDPOINT: Final = "endpoint"
AUTHORIZATION: Final = "authorization"


class FieldType(StrEnum):
    """What a field holds."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SECRET = "secret"  # noqa: S105 - the word for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One thing that a kind asks for.

    Attributes:
        name: of the option.
        label: for people.
        type: of its value.
        required: whether there is no destination without it.
        help: one sentence.
        is_document: whether it is a whole file, with line ends.
    """

    name: str
    label: str
    type: FieldType = FieldType.TEXT
    required: bool = False
    help: str = ""
    is_document: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of destination.

    Attributes:
        name: as configured.
        title: for people.
        endpoint: what its address is, with an example.
        fields: what else it asks for.
        has_secret_endpoint: whether who knows the address may write there.
        has_formats: whether one may choose how entries are written.
        documentation: which page explains it.
    """

    name: str
    title: str
    endpoint: Field
    fields: tuple[Field, ...]
    has_secret_endpoint: bool = False
    has_formats: bool = True
    documentation: str

    @property
    def secrets(self) -> frozenset[str]:
        """The names of what is kept secret."""
        own = {field.name for field in self.fields if field.type is FieldType.SECRET}
        return frozenset(own | ({ENDPOINT} if self.has_secret_endpoint else set()))


def _secret(name: str, label: str, text: str = "", *, required: bool = True) -> Field:
    return Field(name=name, label=label, type=FieldType.SECRET, required=required, help=text)


def _endpoint(label: str, example: str) -> Field:
    return Field(name=ENDPOINT, label=label, required=True, help=f"Such as {example}")


KINDS: Final = (
    Kind(
        name="splunk",
        title="Splunk",
        endpoint=_endpoint("HTTP Event Collector", "https://http-inputs-acme.splunkcloud.com"),
        fields=(
            _secret("token", "Token", "Of the HTTP Event Collector, allowed to write to the index."),
            Field(name="index", label="Index", help="The token's own if left out."),
            Field(
                name="acknowledge",
                label="Indexer acknowledgement",
                type=FieldType.BOOLEAN,
                help="Off for Splunk Cloud, which has none.",
            ),
            Field(name="source", label="Source"),
            Field(name="sourcetype", label="Source type"),
            Field(name="host", label="Host"),
        ),
        documentation="docs/destinations/splunk.md",
    ),
    Kind(
        name="datadog",
        title="Datadog",
        endpoint=_endpoint("Logs intake of your site", "https://http-intake.logs.datadoghq.eu"),
        fields=(
            _secret("api_key", "API key"),
            Field(name="service", label="Service"),
            Field(name="tags", label="Tags", help="Such as env:production,team:security"),
        ),
        documentation="docs/destinations/datadog.md",
    ),
    Kind(
        name="sumo-logic",
        title="Sumo Logic",
        endpoint=_endpoint("HTTP source address", "https://endpoint4.collection.sumologic.com/receiver/v1/http/…"),
        fields=(
            Field(name="category", label="Source category"),
            Field(name="name", label="Source name"),
            Field(name="host", label="Source host"),
            Field(name="fields", label="Fields", help="Such as environment=production"),
        ),
        has_secret_endpoint=True,
        documentation="docs/destinations/sumo-logic.md",
    ),
    Kind(
        name="cloudwatch",
        title="AWS CloudWatch Logs",
        endpoint=_endpoint("Endpoint of your region", "https://logs.eu-central-1.amazonaws.com"),
        fields=(
            Field(name="log_group", label="Log group", required=True),
            Field(name="log_stream", label="Log stream"),
            _secret("access_key_id", "Access key id", "Of a user that may do nothing but put log events there."),
            _secret("secret_access_key", "Secret access key"),
            Field(name="create_log_group", label="Make the group", type=FieldType.BOOLEAN),
            Field(name="retention_days", label="Days the group keeps", type=FieldType.NUMBER),
        ),
        documentation="docs/destinations/cloudwatch.md",
    ),
    Kind(
        name="azure-monitor",
        title="Azure Monitor",
        endpoint=_endpoint("Data collection endpoint", "https://klyra-ab12.westeurope-1.ingest.monitor.azure.com"),
        fields=(
            Field(name="data_collection_rule", label="Immutable id of the rule", required=True, help="Such as dcr-…"),
            Field(name="stream", label="Stream"),
            Field(name="tenant_id", label="Directory (tenant) id", required=True),
            Field(name="client_id", label="Application (client) id", required=True),
            _secret("client_secret", "Client secret"),
        ),
        documentation="docs/destinations/azure-monitor.md",
    ),
    Kind(
        name="google-cloud-logging",
        title="Google Cloud Logging",
        endpoint=_endpoint("API", "https://logging.googleapis.com"),
        fields=(
            Field(name="project", label="Project", required=True),
            Field(name="log", label="Log"),
            Field(
                name="credentials",
                label="Service account key",
                type=FieldType.SECRET,
                required=True,
                help="The JSON file, whole.",
                is_document=True,
            ),
            Field(name="retention_days", label="Days the bucket keeps", type=FieldType.NUMBER),
        ),
        documentation="docs/destinations/google-cloud-logging.md",
    ),
    Kind(
        name="otlp",
        title="OpenTelemetry (OTLP)",
        endpoint=_endpoint("Logs endpoint", "https://otel.example.com:4318/v1/logs"),
        fields=(_secret(AUTHORIZATION, "Authorization header", "Such as Bearer …", required=False),),
        has_formats=False,
        documentation="docs/pipeline.md",
    ),
)
BY_NAME: Final = {kind.name: kind for kind in KINDS}
