"""Credentials of AWS and the signature of a request.

Credentials come from botocore's chain: environment, shared files, SSO, web identity (IRSA), ECS, EC2. The signature is
computed here, over bytes that are already final: botocore's own writes the request it signs, session token included,
into the log at level DEBUG.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from klyra_siem.cloud_requests import vendor_module
from klyra_siem.outcome import Action, Outcome, action_of_http

if TYPE_CHECKING:
    from klyra_siem.cloud_requests import Redaction

SERVICE: Final = "logs"

_ALGORITHM = "AWS4-HMAC-SHA256"
_DISTRIBUTION = "botocore"
_TRANSIENT = frozenset(
    {"Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "IDPCommunicationError"}
)


@dataclass(frozen=True, slots=True)
class Keys:
    """What requests are signed with at this moment."""

    key_id: str
    secret: str = field(repr=False)
    session_token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """Where the keys come from.

    Attributes:
        key_id, secret, session_token: given by the configuration; None for botocore's chain.
        profile: of the shared files; None for what the environment says.
        role_arn, external_id: a role to assume with the keys found; None for none.
        region: of the token service.
        session_name: under which the role's use is recorded.
        timeout_seconds: for one request to the token service.
    """

    key_id: str | None
    secret: str | None = field(repr=False)
    session_token: str | None = field(repr=False)
    profile: str | None
    role_arn: str | None
    external_id: str | None = field(repr=False)
    region: str
    session_name: str
    timeout_seconds: float


class KeySource(Protocol):
    """Where keys come from."""

    def keys(self) -> Keys | Outcome:
        """Return valid keys, renewed if need be, or what it means that there are none."""
        ...

    def forget(self) -> None:
        """Read everything anew next time: the keys were not taken."""
        ...


class ChainKeys:
    """Keys of botocore's chain, or those of a role that they let us assume."""

    def __init__(self, settings: KeySettings, redaction: Redaction) -> None:
        self._settings = settings
        self._redaction = redaction
        self._session = vendor_module("botocore.session", _DISTRIBUTION)
        self._config = vendor_module("botocore.config", _DISTRIBUTION)
        self._credentials = vendor_module("botocore.credentials", _DISTRIBUTION)
        self._errors = vendor_module("botocore.exceptions", _DISTRIBUTION)
        self._found: Any = None

    def keys(self) -> Keys | Outcome:
        """See `KeySource`."""
        try:
            if self._found is None:
                self._found = self._find()
            if self._found is None:
                reason = "no credentials in environment, shared files, container or instance"
                return Outcome(action=Action.PAUSE, status="no_credentials", reason=reason)
            frozen = self._found.get_frozen_credentials()
        except (self._errors.BotoCoreError, self._errors.ClientError, OSError) as error:
            return self._of_failure(error)
        self._redaction.add(frozen.secret_key, frozen.token)
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)

    def forget(self) -> None:
        """See `KeySource`."""
        self._found = None

    def _find(self) -> Any:  # noqa: ANN401 - botocore has no types
        settings = self._settings
        session = self._session.Session(profile=settings.profile)
        if settings.key_id:
            session.set_credentials(settings.key_id, settings.secret, settings.session_token)
        found = session.get_credentials()
        if settings.role_arn is None or found is None:
            return found
        named = {"RoleSessionName": settings.session_name}
        if settings.external_id is not None:
            named["ExternalId"] = settings.external_id

        once = self._config.Config(  # the engine waits, and shows that it does
            retries={"total_max_attempts": 1},
            connect_timeout=settings.timeout_seconds,
            read_timeout=settings.timeout_seconds,
        )

        def client(*names: str, **members: object) -> Any:  # noqa: ANN401 - botocore has no types
            return session.create_client(*names, region_name=settings.region, config=once, **members)

        fetcher = self._credentials.AssumeRoleCredentialFetcher(client, found, settings.role_arn, extra_args=named)
        return self._credentials.DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    def _of_failure(self, error: Exception) -> Outcome:
        """Return what it means that credentials cannot be had; an operator's matter unless it passes by itself."""
        self.forget()
        errors = self._errors
        is_transient = isinstance(
            error, errors.HTTPClientError | errors.ConnectionError | errors.MetadataRetrievalError
        )
        if isinstance(error, errors.ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            is_transient = error.response.get("Error", {}).get("Code") in _TRANSIENT
            is_transient = is_transient or action_of_http(status) is Action.RETRY
        return Outcome(
            action=Action.RETRY if is_transient else Action.PAUSE,
            status="credentials",
            reason=self._redaction.clean(f"{type(error).__name__}: {error}"),
        )


def signed_headers(
    keys: Keys, region: str, url: str, headers: dict[str, str], content: bytes, now: float
) -> dict[str, str]:
    """Return headers with the signature of a POST (AWS, "Create a signed AWS API request").

    Args:
        keys: that sign.
        region: of the service.
        url: scheme, host and path, without query.
        headers: that are signed too.
        content: the body.
        now: seconds since 1970.
    """
    address = urlsplit(url)
    stamp = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    extra = {} if keys.session_token is None else {"X-Amz-Security-Token": keys.session_token}
    sent = {**headers, **extra, "Host": address.netloc, "X-Amz-Date": stamp}
    lower = {name.lower(): " ".join(value.split()) for name, value in sent.items()}
    names = ";".join(sorted(lower))
    lines = "".join(f"{name}:{lower[name]}\n" for name in sorted(lower))
    canonical = "\n".join(("POST", address.path or "/", "", lines, names, hashlib.sha256(content).hexdigest()))
    scope = f"{stamp[:8]}/{region}/{SERVICE}/aws4_request"
    to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    sent["Authorization"] = (
        f"{_ALGORITHM} Credential={keys.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return sent
