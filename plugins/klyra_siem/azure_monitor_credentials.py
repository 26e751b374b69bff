"""Tokens for Azure Monitor, through azure-identity: client secret, workload identity, managed identity."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from klyra_siem.cloud_requests import vendor_module
from klyra_siem.cloud_tokens import Token
from klyra_siem.outcome import Action, Outcome, action_of_http

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_siem.cloud_requests import Redaction

_DISTRIBUTION = "azure-identity"
_STATUS = re.compile(r"HTTP Error: (\d{3})\b")
# RFC 6749, 4.1.2.1, and Microsoft Entra's own: a transient error, too many requests.
_PASSING = re.compile(r"\b(temporarily_unavailable|server_error|AADSTS90033|AADSTS90055)\b")

# Where a cloud's endpoints are, what its tokens are for, and who issues them.
CLOUDS: Final = {
    ".azure.us": ("https://monitor.azure.us", "login.microsoftonline.us"),
    ".azure.cn": ("https://monitor.azure.cn", "login.chinacloudapi.cn"),
}
PUBLIC: Final = ("https://monitor.azure.com", "login.microsoftonline.com")


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureIdentity:
    """Who we are.

    Attributes:
        tenant_id, client_id, client_secret: of an application; all, or none for what the machine is given.
        audience: whom tokens are for.
        authority: host that issues them.
        ca_file: authorities to trust; None for the system's.
        timeout_seconds: for one request.
    """

    tenant_id: str | None
    client_id: str | None
    client_secret: str | None = field(repr=False)
    audience: str
    authority: str
    ca_file: Path | None
    timeout_seconds: float


class AzureTokens:
    """Tokens of azure-identity."""

    def __init__(self, identity: AzureIdentity, redaction: Redaction) -> None:
        self._identity = identity
        self._redaction = redaction
        self._library = vendor_module("azure.identity", _DISTRIBUTION)
        self._errors = vendor_module("azure.core.exceptions", _DISTRIBUTION)
        self._credential: Any = None

    def fetch(self) -> Token | Outcome:
        """See `TokenFetcher`."""
        try:
            if self._credential is None:
                self._credential = self._made()
            given = self._credential.get_token(f"{self._identity.audience}/.default")
        except (self._errors.AzureError, ValueError) as error:
            return self._of_failure(error)
        return Token(given.token, float(given.expires_on))

    def forget(self) -> None:
        """See `TokenFetcher`: the library keeps tokens of its own."""
        self._credential = None

    def _made(self) -> Any:  # noqa: ANN401 - one of the library's credentials
        identity = self._identity
        if identity.client_secret is not None:
            trust = {} if identity.ca_file is None else {"connection_verify": str(identity.ca_file)}
            # Whoever names an authority of his own does not want Microsoft asked whether it is known.
            is_known = identity.authority in {PUBLIC[1], *(authority for _, authority in CLOUDS.values())}
            return self._library.ClientSecretCredential(
                identity.tenant_id,
                identity.client_id,
                identity.client_secret,
                authority=identity.authority,
                disable_instance_discovery=not is_known,
                retry_total=0,  # the engine waits, and shows that it does
                connection_timeout=identity.timeout_seconds,
                read_timeout=identity.timeout_seconds,
                **trust,
            )
        chosen = {} if identity.client_id is None else {"managed_identity_client_id": identity.client_id}
        return self._library.DefaultAzureCredential(authority=identity.authority, **chosen)

    def _of_failure(self, error: Exception) -> Outcome:
        """Return what it means that there is no token: some failures pass by themselves, others are an operator's."""
        self.forget()
        return Outcome(
            action=Action.RETRY if self._is_transient(error) else Action.PAUSE,
            status="credentials",
            reason=self._redaction.clean(f"{type(error).__name__}: {error}"),
        )

    def _is_transient(self, error: BaseException | None) -> bool:
        """Say whether an error, or one that it was raised from, is an issuer that is away or says that it is busy.

        The library wraps whatever happens in `ClientAuthenticationError`; MSAL tells a status in words only.
        """
        while error is not None:
            if isinstance(error, self._errors.ServiceRequestError | self._errors.ServiceResponseError):
                return True
            if _PASSING.search(str(error)):
                return True
            told = _STATUS.search(str(error))
            status = getattr(getattr(error, "response", None), "status_code", int(told[1]) if told else None)
            if isinstance(status, int) and action_of_http(status) is Action.RETRY:
                return True
            error = error.__cause__
        return False
