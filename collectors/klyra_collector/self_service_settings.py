"""Settings of what organizations may set up for themselves, apart from `config` so that no stage needs all of it."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

PREFIX: Final = "dst-"  # how the names of destinations begin that organizations have set up; no configured one's

# Hosts that belong to the vendors. A pattern's * stands for any number of labels.
VENDOR_HOSTS: Final = (
    *("*.splunkcloud.com", "*.splunkcloudgc.com"),
    *("http-intake.logs.datadoghq.com", "http-intake.logs.*.datadoghq.com", "http-intake.logs.datadoghq.eu"),
    *("http-intake.logs.ddog-gov.com", "http-intake.logs.*.ddog-gov.com"),
    "*.sumologic.com",
    *("logs.*.amazonaws.com", "logs-fips.*.amazonaws.com", "logs.*.amazonaws.com.cn"),
    *("*.ingest.monitor.azure.com", "*.ingest.monitor.azure.us", "*.ingest.monitor.azure.cn"),
    "logging.googleapis.com",
)


class SelfServiceSettings(BaseModel):
    """`[self_service]`: destinations that organizations set up for themselves (docs/destinations/self-service.md).

    Attributes:
        enabled: whether they may.
        allowed_hosts: where to: patterns of host names. Requests come from the follower's machine, so whatever is
            named here can be reached with its address.
        look_seconds: how often the follower looks for changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    allowed_hosts: tuple[str, ...] = VENDOR_HOSTS
    look_seconds: float = Field(2.0, gt=0)
