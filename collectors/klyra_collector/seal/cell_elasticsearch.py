"""A cell in an Elasticsearch document, by optimistic concurrency control.

Source: Elasticsearch reference, "Optimistic concurrency control" (`if_seq_no`, `if_primary_term`) and the index API's
`_create`. A GET by id is real-time, so no refresh is needed.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from klyra_audit.errors import Rejected
from klyra_collector.errors import CellConflict, CellUnreachable
from klyra_collector.secret_reference import read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 5.0
_MEMBER = "head"
_PATH_PARTS = 2
_KNOWN_PARAMETERS = {"api_key", "user", "password", "ca"}


class _Stored(NamedTuple):
    """What the document holds, and the version at which it was read."""

    value: bytes
    sequence_number: int
    primary_term: int


class ElasticsearchCell:
    """One document of one index."""

    def __init__(self, client: httpx.Client, index: str, document_id: str) -> None:
        self._client = client
        self._document = f"/{quote(index, safe='')}/_doc/{quote(document_id, safe='')}"
        self._creation = f"/{quote(index, safe='')}/_create/{quote(document_id, safe='')}"

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the cell of a URL.

        Args:
            url: `elasticsearch+https://host:9200/index/id`, with `?api_key=env:NAME`, or `?user=name&password=env:NAME`
                and `&ca=/path/to/ca.pem` where needed.

        Raises:
            Rejected: `bad_cell`, or `bad_reference` for a credential that is not one.
            SecretUnavailable: the credential is not there.
        """
        parsed = urlsplit(url.removeprefix("elasticsearch+"))
        parts = [part for part in parsed.path.split("/") if part]
        parameters = dict(parse_qsl(parsed.query))
        if len(parts) != _PATH_PARTS or not parsed.hostname or parsed.username or parameters.keys() - _KNOWN_PARAMETERS:
            raise Rejected(
                "ledger.cell is not of the form elasticsearch+https://host:port/index/id.",
                remedy="Give credentials by reference: ?api_key=env:NAME, or ?user=NAME&password=file:PATH.",
                code="bad_cell",
            )
        client = httpx.Client(
            base_url=f"{parsed.scheme}://{parsed.netloc}",
            headers=_authorization(parameters),
            timeout=_SECONDS,
            verify=parsed.scheme == "https" and _verification(parameters),
        )
        return cls(client, *parts)

    def read(self) -> bytes | None:
        """See `Cell`."""
        stored = self._get()
        return None if stored is None else stored.value

    def compare_and_swap(self, expected: bytes | None, new: bytes) -> None:
        """See `Cell`. Another's write between our read and ours fails ours by its sequence number."""
        stored = self._get()
        if (None if stored is None else stored.value) != expected:
            raise self._conflict()
        body = {_MEMBER: base64.b64encode(new).decode()}
        if stored is None:
            response = self._send("PUT", self._creation, {}, body)
        else:
            version = {"if_seq_no": stored.sequence_number, "if_primary_term": stored.primary_term}
            response = self._send("PUT", self._document, version, body)
        if response.status_code == httpx.codes.CONFLICT:
            raise self._conflict()
        if response.status_code not in (httpx.codes.OK, httpx.codes.CREATED):
            self._refuse(response)

    def _get(self) -> _Stored | None:
        response = self._send("GET", self._document)
        if response.status_code == httpx.codes.NOT_FOUND and _says_absent(response):
            return None
        if response.status_code != httpx.codes.OK:
            self._refuse(response)
        try:
            answer = response.json()
            value = base64.b64decode(answer["_source"][_MEMBER], validate=True)
            return _Stored(value, int(answer["_seq_no"]), int(answer["_primary_term"]))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise CellUnreachable(
                f"The document of {self._described} is no cell.", remedy="Give the cell a document of its own."
            ) from error

    def _send(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, int] | None = None,
        body: dict[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return self._client.request(method, path, params=dict(parameters or {}), json=body)
        except httpx.HTTPError as error:
            raise CellUnreachable(
                f"The cell {self._described} does not answer: {str(error) or type(error).__name__}.",
                remedy="Check ledger.cell and the cluster.",
            ) from error

    def _refuse(self, response: httpx.Response) -> NoReturn:
        raise CellUnreachable(
            f"The cell {self._described} answers {response.status_code}.",
            remedy="Check ledger.cell, its credentials and the cluster.",
        )

    def _conflict(self) -> CellConflict:
        return CellConflict(
            f"The cell {self._described} holds a head that this collector did not put there.",
            remedy="Find the other collector that writes this ledger, and stop one of them.",
        )

    @property
    def _described(self) -> str:
        return f"{str(self._client.base_url).rstrip('/')}{self._document.replace('/_doc/', '/')}"


def _says_absent(response: httpx.Response) -> bool:
    """Tell a missing document or index from a 404 of something in between, which must not pass for an empty cell."""
    try:
        answer: Any = response.json()
    except ValueError:
        return False
    if not isinstance(answer, dict):
        return False
    error = answer.get("error")
    return answer.get("found") is False or (
        isinstance(error, dict) and error.get("type") == "index_not_found_exception"
    )


def _authorization(parameters: Mapping[str, str]) -> dict[str, str]:
    if "api_key" in parameters:
        return {"Authorization": f"ApiKey {read_secret(parameters['api_key'], 'api_key of ledger.cell')}"}
    if "user" in parameters:
        password = read_secret(parameters.get("password", ""), "password of ledger.cell")
        encoded = base64.b64encode(f"{parameters['user']}:{password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}
    return {}


def _verification(parameters: Mapping[str, str]) -> Any:  # noqa: ANN401 - what httpx takes: True or a context
    import ssl  # noqa: PLC0415 - only with a CA of one's own

    return ssl.create_default_context(cafile=parameters["ca"]) if "ca" in parameters else True
