"""The browser side as files: where they are, and how its modules are served."""

import gzip
import hashlib
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiohttp import hdrs, web

MANIFEST = "manifest.json"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
_HEADERS = {
    hdrs.CACHE_CONTROL: "public, max-age=300",
    hdrs.VARY: hdrs.ACCEPT_ENCODING,
    "X-Content-Type-Options": "nosniff",
}


def browser_files() -> Path:
    """The folder of the browser side: in the wheel inside the package, in a checkout beside it."""
    packed = Path(__file__).with_name("browser")
    return packed if packed.is_dir() else Path(__file__).parents[1] / "web"


class _File(NamedTuple):
    body: bytes
    packed: bytes
    """The body, compressed once and for all."""
    content_type: str
    digest: bytes
    """Of the body as it is, which is what browsers compare with an SRI hash."""


class Files:
    """Files of the browser side, served from memory.

    Args:
        folder: where they are.
        pattern: which of them, and of those in folders below.
        index: what is served where none is named.
    """

    def __init__(self, folder: Path, pattern: str = "**/*", index: str = "") -> None:
        self._files = {
            path.relative_to(folder).as_posix(): _file(path.read_bytes(), _TYPES[path.suffix])
            for path in folder.glob(pattern)
            if path.suffix in _TYPES
        }
        self._index = index

    async def serve(self, request: web.Request) -> web.Response:
        """`GET` a file, by the `name` in the path."""
        file = self._files.get(request.match_info["name"] or self._index)
        if file is None:
            raise web.HTTPNotFound
        body, headers, etag = file.body, _HEADERS, file.digest.hex()[:32]
        if _takes_gzip(request):  # another representation, so another tag (RFC 9110 §8.8.3.3)
            body, headers, etag = file.packed, {**_HEADERS, hdrs.CONTENT_ENCODING: "gzip"}, f"{etag}-gzip"
        if any(known.value in (etag, "*") for known in request.if_none_match or ()):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(
                body=body, content_type=file.content_type, charset="utf-8", headers=headers
            )
        response.etag = etag
        return response


class Modules(Files):
    """The browser modules; `manifest.json` lists them with their SRI hashes."""

    def __init__(self) -> None:
        super().__init__(browser_files(), "*.js")
        hashes = {
            name: f"sha384-{b64encode(file.digest).decode()}" for name, file in sorted(self._files.items())
        }
        manifest = msgspec.json.format(msgspec.json.encode(hashes))
        self._files[MANIFEST] = _file(manifest, "application/json")


@cache
def _file(body: bytes, content_type: str) -> _File:
    """What is served for a file; once for all apps of a process, for tests make many of them."""
    packed = gzip.compress(body, mtime=0)  # without the time, so that a tag stands for the same bytes
    return _File(body, packed, content_type, hashlib.sha384(body).digest())


def _takes_gzip(request: web.Request) -> bool:
    """Whether the client names gzip among what it accepts (RFC 9110 §12.5.3), and not to refuse it."""
    for each in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "gzip":
            return weight.strip().rstrip("0.") != "q="  # which is what is left of any zero
    return False
