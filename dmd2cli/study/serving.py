"""A study on a port of this machine: the socket, the token of the link, and the server until Ctrl-C."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from dmd2cli.errors import UserError
from dmd2cli.study.guard import LOOPBACK, TOKEN
from dmd2cli.study.server import Server
from dmd2cli.study.set import Study, load
from dmd2cli.study.votes import Votes

SAFE = re.compile(r"[A-Za-z0-9_.~-]{1,128}")
"""Tokens that stand in a link as they are."""
MOST_OPEN = 512
"""Connections at once; more are answered with 503."""
PORTS = 65535
Tell: TypeAlias = Callable[[str, Study, tuple[int, int]], None]
"""Is told the link, the study, and (raters, votes) that are there already."""


def serve(folder: Path, host: str, port: int, token: str | None, tell: Tell) -> None:
    """Serve until Ctrl-C. port: 0 for any that is free.

    Raises UserError for a folder that is no study or cannot be written, a port that cannot be had, an unfit token.
    """
    import uvicorn

    study = load(folder)
    votes = Votes(folder, study.id)
    with closing(votes), listen(host, port) as listener:
        try:
            word = kept(folder, token)
            app = Server(folder, study, votes, word, host in LOOPBACK).app()
            tell(link(listener, host, word), study, votes.counts())
            settings = uvicorn.Config(
                app, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
                limit_concurrency=MOST_OPEN, timeout_keep_alive=30, timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=16 * 1024, proxy_headers=False,
            )  # fmt: skip
            uvicorn.Server(settings).run(sockets=[listener])
        except KeyboardInterrupt:
            pass                                               # the way to end it


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises UserError."""
    if not 0 <= port <= PORTS:
        raise UserError(f"--port {port}: ports are 1 to {PORTS}, or 0 for any that is free")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family)
    except (OSError, UnicodeError) as err:
        raise UserError(f"--host {host}: not an address of this machine ({err}); leave it out for 127.0.0.1") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)      # a port is free at once after its server
        found.bind(address)
        found.listen(128)
    except OSError as err:
        found.close()
        raise UserError(where(err, host, port)) from None
    return found


def where(err: OSError, host: str, port: int) -> str:
    """Why a port cannot be had, and what to do."""
    if err.errno == errno.EADDRINUSE:
        return f"--port {port}: in use by another program; take another, or 0 for any that is free"
    if err.errno == errno.EACCES:
        return f"--port {port}: only for the system's own programs; take one above 1023"
    return f"--host {host}: cannot be listened on ({err.strerror}); leave it out for 127.0.0.1"


def kept(folder: Path, token: str | None) -> str:
    """The token of a study, kept in its folder for its owner alone, so that a link outlives the server.

    token: take this one from now on. Raises UserError for one that no link can hold.
    """
    path = folder / TOKEN
    if token is None and path.is_file() and SAFE.fullmatch(held := path.read_text("utf-8", "replace").strip()):
        return held
    if token is not None and not SAFE.fullmatch(token):
        raise UserError("--token: expected 1 to 128 of the characters A-Z a-z 0-9 _ . ~ -")
    word, draft = token or secrets.token_urlsafe(24), folder / f".{TOKEN}.tmp"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{word}\n")
    os.replace(draft, path)
    return word


def link(listener: socket.socket, host: str, token: str) -> str:
    """What a rater opens."""
    name = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}/?{TOKEN}={token}"
