"""CSRF tokens for pages that stay open: short-lived, for each beat brings a fresh one."""

import hmac
import secrets
import time

from aiohttp import web
from aiohttp_session import get_session

from keepalive.touchers import key_of

SECRET = secrets.token_bytes(32)
LIFE = 600  # seconds; a token is good for at least one of these and at most two


def token(key: bytes, age: int = 0) -> str:
    """The token of a session; of the period before with `age=1`."""
    return hmac.digest(SECRET, key + b"%d" % (time.time() // LIFE - age), "sha256").hex()


async def check(request: web.Request) -> None:
    """Let in only what a page of this very session has sent."""
    key = key_of((await get_session(request)).identity or "")
    sent = str((await request.post()).get("csrf")).encode()
    if not any(hmac.compare_digest(sent, token(key, age).encode()) for age in (0, 1)):
        raise web.HTTPForbidden
