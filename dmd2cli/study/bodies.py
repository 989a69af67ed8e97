"""The JSON that a request carries, and the answers to one that cannot be taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dmd2cli.study.guard import no

MOST_BODY = 4096
"""Bytes of a request."""


class Refused(HTTPException):
    """A request that is refused: status and words."""


async def body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refused for another type, as a form of another site sends, or size."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "send application/json")
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MOST_BODY:
            raise Refused(413, f"at most {MOST_BODY} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "send a JSON object")
    return found


def text(asked: Mapping[str, Any], name: str) -> str:
    """A value that is text. Raises Refused."""
    if not isinstance(found := asked.get(name), str):
        raise Refused(400, f"{name}: text is needed")
    return found


def whole(asked: Mapping[str, Any], name: str) -> int:
    """A value that is a whole number. Raises Refused."""
    if not isinstance(found := asked.get(name), int) or isinstance(found, bool):
        raise Refused(400, f"{name}: a whole number is needed")
    return found


def refused(request: Request, err: Exception) -> Response:
    """The answer to what is refused, or not there."""
    assert isinstance(err, HTTPException)
    return no(err.status_code, err.detail, dict(err.headers or {}))


def unsaved(request: Request, err: Exception) -> Response:
    """The answer where the disk is full, read-only or locked: nothing was taken, and the page will send it again."""
    return no(503, f"not saved ({err}); it is tried again", {"retry-after": "2"})
