"""What every request passes before the study sees it: Host, rate, token; and the headers every answer carries."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmd2cli.study.limits import Limits

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN = "token"
"""The name in the query of the link."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Guard:
    """The application behind a gate. cookie: the name under which a browser keeps the token.

    local: answer only to names of this machine, so that a page elsewhere whose name is pointed here gets nothing (DNS
    rebinding). rater: who sends a request, if it is one that has joined; others are counted by address.
    """

    app: ASGIApp
    token: str
    cookie: str
    local: bool
    rater: Callable[[HTTPConnection], str | None]
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headed = headed_send(send)
        refused = self.refusal(HTTPConnection(scope))
        if refused is not None:
            await refused(scope, receive, headed)
        else:
            await self.app(scope, receive, headed)

    def refusal(self, asked: HTTPConnection) -> JSONResponse | None:
        """The answer to a request that must not pass; None for one that may."""
        if self.local and host(asked.headers.get("host", "")) not in LOOPBACK:
            return no(421, "this study answers on this machine's own names only")
        allowed = self.has_token(asked)
        known = self.rater(asked) if allowed else None
        if not self.limits.take(known or f"from {asked.client.host if asked.client else ''}"):
            return no(429, "too many requests; wait a second", {"retry-after": "1"})
        if not allowed:
            return no(403, "the link is not complete: open it with the token that dmd2 study serve printed")
        if not own_page(asked.headers):
            return no(403, "the request comes from a page of another site")
        return None

    def has_token(self, asked: HTTPConnection) -> bool:
        """Compared in constant time."""
        given = asked.query_params.get(TOKEN) or asked.cookies.get(self.cookie, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def no(code: int, why: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says no."""
    return JSONResponse({"error": why}, code, headers)


def host(header: str) -> str:
    """The name in a Host header, without the port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def own_page(headers: Headers) -> bool:
    """Whether the page that sends a request, where a browser says which, is the study's."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def headed_send(send: Send) -> Send:
    """A send that puts HEADERS on every answer; what sets no rule of its own is not to be kept by a browser."""

    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                found[name] = value
            found.setdefault("cache-control", "no-store")
        await send(message)

    return headed
