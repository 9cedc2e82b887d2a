"""The headers that leave a page, and whoever attacks it, little to do (OWASP ASVS 5.0 V3.4).

On everything that the standalone server answers. In an app that embeds keepalive on our routes
alone: what its own pages may do is the app's to say.
"""

from collections.abc import Callable

from aiohttp import hdrs, web

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""Nothing from elsewhere, nothing that stands in the page, and no text that becomes code."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`: with that, browsers send `Origin: null` with the forms of our own pages.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
STRICT_TRANSPORT_SECURITY = "max-age=31536000; includeSubDomains"


def protect(response: web.StreamResponse) -> None:
    """Add the headers to a response of ours, which no cache may keep unless it says so itself."""
    if response.status == 101:
        return
    response.headers.update(HEADERS)
    kept = "no-cache" if isinstance(response, web.FileResponse) else "no-store"
    response.headers.setdefault(hdrs.CACHE_CONTROL, kept)


def harden(app: web.Application, is_secure: Callable[[web.Request], bool]) -> None:
    """Protect all that an app answers.

    Args:
        app: all of it is ours.
        is_secure: whether a request came by https; then the browser is to use nothing else for a year.
    """

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        protect(response)
        response.headers.pop(hdrs.SERVER, None)  # which versions run here is nobody's business
        if is_secure(request) and response.status != 101:
            response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY

    app.on_response_prepare.append(prepare)
