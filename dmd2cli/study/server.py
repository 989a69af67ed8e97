"""The web application of a study: one page, its pictures, and four requests in JSON.

    GET  /                 the page                     GET  /style.css /study.js /icon.svg
    GET  /image/ID         a picture by its SHA-256     GET  /api/state     where the rater is
    POST /api/join         {"name": "Ada"}; "" for an anonymous rater
    POST /api/vote         {"pair": 3, "question": "quality", "side": "left", "key": "..."}
    POST /api/undo         {"pair": 3, "question": "quality"}

All of /api answers with the state, errors with {"error": words}. A vote may be sent again under its key.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dmd2cli.study.bodies import Refused, body, refused, text, unsaved, whole
from dmd2cli.study.guard import TOKEN, Guard, no
from dmd2cli.study.limits import Limits
from dmd2cli.study.names import clean
from dmd2cli.study.set import QUESTIONS, SIDES, Study, image_file
from dmd2cli.study.state import state
from dmd2cli.study.votes import Votes

ASSETS = {"style.css": "text/css", "study.js": "text/javascript", "icon.svg": "image/svg+xml"}
MOST_RATERS, MOST_NAME = 1000, 60
"""Of a study; characters."""
KEY = re.compile(r"[A-Za-z0-9-]{8,64}")
YEAR = 365 * 24 * 3600


@dataclass(frozen=True)
class Server:
    """A study that is being served. Raters are told apart by a cookie that no script can read."""

    folder: Path
    study: Study
    votes: Votes
    token: str
    local: bool

    def app(self) -> ASGIApp:
        """The application, behind its guard."""
        routes = [
            Route("/", self.page),
            *(Route(f"/{name}", self.asset) for name in ASSETS),
            Route("/image/{id}", self.image),
            Route("/api/state", self.state),
            Route("/api/join", self.join, methods=["POST"]),
            Route("/api/vote", self.vote, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
        ]
        inner = Starlette(routes=routes, exception_handlers={HTTPException: refused, sqlite3.Error: unsaved})
        return Guard(inner, self.token, self.cookie(TOKEN), self.local, self.known, Limits())

    @cached_property
    def pages(self) -> dict[str, bytes]:
        """The files of the page by name, read once. Its words are put in by a template that escapes."""
        folder = files("dmd2cli.study") / "page"
        template = Environment(autoescape=True).from_string((folder / "index.html").read_text("utf-8"))
        questions = [(name, QUESTIONS[name]) for name in self.study.questions]
        page = template.render(questions=questions, pairs=self.study.pairs, most_name=MOST_NAME).encode()
        return {"": page, **{name: (folder / name).read_bytes() for name in ASSETS}}

    @cached_property
    def pictures(self) -> dict[str, Path]:
        """Every image by its hash: the only files of the study that can be asked for."""
        return {
            sha256: image_file(self.folder, a, i)
            for a, arm in enumerate(self.study.arms)
            for i, sha256 in enumerate(arm.images)
        }

    def cookie(self, what: str) -> str:
        """Its name; cookies of one machine are shared by all ports, so it has the study's."""
        return f"dmd2-{self.study.id}-{what}"

    def known(self, asked: HTTPConnection) -> str | None:
        """Who sends a request, if that can be told without the disk."""
        given = asked.cookies.get(self.cookie("rater"), "")
        return given if given in self.votes.names else None

    def rater(self, asked: HTTPConnection) -> str | None:
        """Who sends a request; None for one that has not joined."""
        given = asked.cookies.get(self.cookie("rater"), "")
        return given if given.isascii() and self.votes.name(given) is not None else None

    def set_cookie(self, answer: Response, what: str, value: str) -> None:
        """One that stays in this browser and on this site."""
        answer.set_cookie(self.cookie(what), value, YEAR, httponly=True, samesite="strict")

    def page(self, request: Request) -> Response:
        """The page; it keeps the token for what the page asks for in turn."""
        answer = Response(self.pages[""], media_type="text/html")
        self.set_cookie(answer, TOKEN, self.token)
        return answer

    def asset(self, request: Request) -> Response:
        """A file of the page."""
        name = request.url.path.removeprefix("/")
        return Response(self.pages[name], media_type=ASSETS[name])

    def image(self, request: Request) -> Response:
        """A picture, unless it is another one than when the study was made."""
        sha256 = request.path_params["id"]
        path = self.pictures.get(sha256)
        raw = path.read_bytes() if path is not None and path.is_file() else b""
        if hashlib.sha256(raw).hexdigest() != sha256:
            return no(404, "no such image")
        keep = {"cache-control": f"private, max-age={YEAR}, immutable"}
        return Response(raw, media_type="image/png", headers=keep)

    def state(self, request: Request) -> Response:
        """Where the rater is; {} for one that has not joined."""
        rater = self.rater(request)
        return JSONResponse({}) if rater is None else self.where(rater)

    def where(self, rater: str) -> JSONResponse:
        """The state of a rater."""
        return JSONResponse(state(self.study, rater, self.votes.name(rater) or "", self.votes.given(rater)))

    async def join(self, request: Request) -> Response:
        """Make a rater of whoever has no cookie yet."""
        asked = await body(request)
        return await run_in_threadpool(self.joined, request, clean(text(asked, "name")))

    def joined(self, request: Request, name: str) -> Response:
        """The same, with the database."""
        if (rater := self.rater(request)) is not None:
            return self.where(rater)
        if len(name) > MOST_NAME:
            raise Refused(400, f"a name has at most {MOST_NAME} characters")
        rater = secrets.token_urlsafe(16)
        if not self.votes.join(rater, name, MOST_RATERS):
            raise Refused(403, f"this study has its {MOST_RATERS} raters already")
        found = self.where(rater)
        self.set_cookie(found, "rater", rater)
        return found

    async def vote(self, request: Request) -> Response:
        """Take an answer; told after it is on disk."""
        asked = await body(request)
        pair, question, side, key = self.named(asked), text(asked, "question"), text(asked, "side"), text(asked, "key")
        if question not in self.study.questions or side not in SIDES or not KEY.fullmatch(key):
            raise Refused(400, "question, side or key is none that this study knows")
        return await run_in_threadpool(self.changed, request, pair, question, side, key)

    async def undo(self, request: Request) -> Response:
        """Take an answer back."""
        asked = await body(request)
        return await run_in_threadpool(self.changed, request, self.named(asked), text(asked, "question"))

    def changed(self, request: Request, pair: int, question: str, side: str = "", key: str = "") -> Response:
        """After a vote, or without a side after taking one back."""
        rater = self.rater(request)
        if rater is None:
            raise Refused(401, "join first")
        if side:
            self.votes.vote(rater, pair, question, side, key)
        else:
            self.votes.undo(rater, pair, question)
        return self.where(rater)

    def named(self, asked: dict[str, Any]) -> int:
        """The number of a pair that there is."""
        if not 0 <= (pair := whole(asked, "pair")) < self.study.pairs:
            raise Refused(400, f"pairs are 0 to {self.study.pairs - 1}")
        return pair
