"""The web page and the viewer of traces: files of the package, read once, so that no request ever opens one."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

import sfumato.serve
import sfumato.show

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".ico": "image/x-icon",
}
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Content and media type of every file, by its address."""
    folders = {"/": sfumato.serve.__path__[0] + "/web", "/viewer/": sfumato.show.__path__[0] + "/viewer"}
    files = {}
    for prefix, folder in folders.items():
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in TYPES:
                files[prefix + path.relative_to(folder).as_posix()] = path.read_bytes(), TYPES[path.suffix]
        if (index := f"{prefix}index.html") in files:
            files[prefix] = files[index]
    return files


def page_router() -> APIRouter:
    """Routes for the files of the page; none where the package has none."""
    router = APIRouter(include_in_schema=False)
    for address, (content, kind) in page_files().items():
        router.add_api_route(address, _sender(content, kind), methods=["GET", "HEAD"])
    return router


def _sender(content: bytes, kind: str):  # noqa: ANN202
    async def send() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return send
