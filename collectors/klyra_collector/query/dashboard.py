"""The built-in page: a folder of static files, served under a policy that runs nothing but those files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from importlib.resources.abc import Traversable
    from typing import Any

    from starlette.requests import Request

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
_INDEX = "index.html"
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the page.

    Attributes:
        path: below the folder, with slashes.
        media_type: its Content-Type.
        content: its bytes.
        tag: ETag of the content.
    """

    path: str
    media_type: str
    content: bytes
    tag: str


def files_of(folder: Traversable, prefix: str = "") -> Iterator[StaticFile]:
    """Yield every file of a type that pages are made of, read once at start; others stay where they are."""
    for item in sorted(folder.iterdir(), key=lambda found: found.name):
        path = prefix + item.name
        if item.is_dir():
            yield from files_of(item, f"{path}/")
            continue
        media_type = _TYPES.get(f".{item.name.rpartition('.')[2]}")
        if media_type is not None:
            content = item.read_bytes()
            yield StaticFile(path, media_type, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def routes_of(folder: Traversable) -> list[Route]:
    """Return a route for each file of a folder, and `/` for its `index.html`."""
    found = [Route(f"/{file.path}", _serving(file), include_in_schema=False) for file in files_of(folder)]
    index = [file for file in files_of(folder) if file.path == _INDEX]
    return [Route("/", _serving(file), include_in_schema=False) for file in index] + found


def _serving(file: StaticFile) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    headers = {**_HEADERS, "ETag": file.tag}

    async def serve(request: Request) -> Response:
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return serve
