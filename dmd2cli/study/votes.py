"""Votes on disk: SQLite in WAL mode. A vote is acknowledged after its commit; a request sent twice counts once."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmd2cli.errors import UserError

VOTES = "votes.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS study (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS raters (id TEXT PRIMARY KEY, name TEXT NOT NULL, joined REAL NOT NULL);
CREATE TABLE IF NOT EXISTS votes (
    number INTEGER PRIMARY KEY,
    rater TEXT NOT NULL,
    pair INTEGER NOT NULL,
    question TEXT NOT NULL,
    side TEXT NOT NULL CHECK (side IN ('left', 'none', 'right')),
    at REAL NOT NULL,
    UNIQUE (rater, pair, question)
);
CREATE TABLE IF NOT EXISTS seen (rater TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (rater, key)) WITHOUT ROWID;
"""
"""number grows with time. seen: keys of the votes that were taken, undone ones too."""


@dataclass(frozen=True)
class Vote:
    """One answer. at: seconds since 1970."""

    rater: str
    pair: int
    question: str
    side: str
    at: float


class Votes:
    """The votes of a study, open for writing. Threads take turns; several processes may use one file."""

    def __init__(self, folder: Path, study: str) -> None:
        """Open, or make. Raises UserError for a file that is damaged, of another study, or cannot be written."""
        self._path, self._lock = folder / VOTES, threading.Lock()
        self.names: dict[str, str] = {}
        with told(self._path):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))           # names of people are in it
            self._base = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
            try:
                self._prepare(study)
            except BaseException:
                self._base.close()
                raise

    def _prepare(self, study: str) -> None:
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        self._base.executescript(SCHEMA)
        if self._base.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("quick_check found errors")
        with self._base:
            self._base.execute("INSERT INTO study SELECT ? WHERE NOT EXISTS (SELECT 1 FROM study)", [study])
        belongs(self._path, self._base, study)
        self.names.update(self._base.execute("SELECT id, name FROM raters").fetchall())

    def close(self) -> None:
        """Fold the log into the file."""
        self._base.close()

    @contextmanager
    def _turn(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, or nothing of it."""
        with self._lock, self._base:
            yield self._base

    def join(self, rater: str, name: str, most: int) -> bool:
        """Enter a new rater; False if there are `most` already."""
        with self._turn() as base:
            values = [rater, name, time.time(), most]
            done = base.execute("INSERT INTO raters SELECT ?, ?, ? WHERE (SELECT COUNT(*) FROM raters) < ?", values)
        if done.rowcount == 1:
            self.names[rater] = name
        return done.rowcount == 1

    def name(self, rater: str) -> str | None:
        """Of a rater; None for one that has not joined, here or through another process."""
        if rater not in self.names:
            with self._turn() as base:
                row = base.execute("SELECT name FROM raters WHERE id = ?", [rater]).fetchone()
            if row is None:
                return None
            self.names[rater] = row[0]
        return self.names[rater]

    def vote(self, rater: str, pair: int, question: str, side: str, key: str) -> None:
        """Take an answer in place of an earlier one. key: of the request; what comes under it again changes nothing."""
        with self._turn() as base:
            if base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", [rater, key]).rowcount:
                values = [rater, pair, question, side, time.time()]
                base.execute("INSERT OR REPLACE INTO votes VALUES (NULL, ?, ?, ?, ?, ?)", values)

    def undo(self, rater: str, pair: int, question: str) -> None:
        """Take a vote back, if it is there."""
        with self._turn() as base:
            base.execute("DELETE FROM votes WHERE (rater, pair, question) = (?, ?, ?)", [rater, pair, question])

    def given(self, rater: str) -> dict[tuple[int, str], str]:
        """(pair, question) -> side of one rater, the latest vote last."""
        with self._turn() as base:
            rows = base.execute("SELECT pair, question, side FROM votes WHERE rater = ? ORDER BY number", [rater])
            return {(pair, question): side for pair, question, side in rows}

    def counts(self) -> tuple[int, int]:
        """Raters and votes."""
        with self._turn() as base:
            row = base.execute("SELECT (SELECT COUNT(*) FROM raters), (SELECT COUNT(*) FROM votes)").fetchone()
            return row[0], row[1]


def read_votes(folder: Path, study: str) -> tuple[list[Vote], dict[str, str]]:
    """All votes in the order they came, and the names of raters by id; while a server runs, or from a read-only disk.

    Raises UserError if there are none, or the file is damaged or of another study.
    """
    path = folder / VOTES
    if not path.is_file():
        raise UserError(f"{folder}: nobody has voted yet; collect votes with dmd2 study serve {folder}")
    mode = "mode=ro" if os.access(folder, os.W_OK) else "immutable=1"      # a log beside the file needs a place
    with told(path):
        base = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=10)
        try:
            belongs(path, base, study)
            rows = base.execute("SELECT rater, pair, question, side, at FROM votes ORDER BY number").fetchall()
            names = dict(base.execute("SELECT id, name FROM raters").fetchall())
        finally:
            base.close()
    return [Vote(*row) for row in rows], names


def belongs(path: Path, base: sqlite3.Connection, study: str) -> None:
    """Raise UserError if votes are of another study."""
    held = base.execute("SELECT id FROM study").fetchone()
    if held is not None and held[0] != study:
        raise UserError(f"{path}: votes on another study; take the file out of the folder, or put the old study back")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite raises, as one line."""
    try:
        yield
    except sqlite3.DatabaseError as err:
        if isinstance(err, sqlite3.OperationalError) and "no such" not in str(err):
            raise UserError(f"{path}: cannot be used ({err}); is the disk read-only or full?") from err
        raise UserError(f"{path}: damaged ({err}); move it away, and what can be saved of it with sqlite3") from err
