"""The local cache of the Hugging Face hub: what is in it, and the one place that downloads, when that was allowed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmd2cli.errors import UserError


@dataclass(frozen=True)
class Download:
    """Some files of one repository."""

    repository: str
    what: str
    """The files in a few words; of one file its name."""
    size: int
    """Bytes, about."""
    licence: str
    files: tuple[str, ...]
    """What is fetched: names, or patterns with asterisks."""
    needed: tuple[str, ...] = ()
    """Patterns of which each must match a file that is there; none: those of `files`."""

    @property
    def folder(self) -> Path | None:
        """The snapshot in the local cache, if all that is needed is in it."""
        found = snapshot(self.repository)
        patterns = self.needed or self.files
        whole = found is not None and all(any(p.is_file() for p in found.glob(pattern)) for pattern in patterns)
        return found if whole else None

    def __str__(self) -> str:
        return f"{self.what} of {self.repository} (about {self.size / 1e9:.1f} GB, {self.licence})"

    def fetch(self) -> Path:
        """Download what is missing of it; gives the snapshot. Raises UserError, in one line, if that fails."""
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(self.repository, allow_patterns=list(self.files))
        except Exception as err:                           # there is no end to what a network may raise
            cause = err.__cause__ or err                   # the library wraps what the connection said
            why = f"{type(cause).__name__}: {' '.join(str(cause).split())[:160]}"
            kept = "what has come stays in the cache: try again with a connection"
            raise UserError(f"{self.what} of {self.repository}: cannot be downloaded ({why}); {kept}") from err
        if (found := self.folder) is None:
            raise UserError(f"{self.repository}: no longer holds {self.what}; look there for what it is called now")
        return found


def snapshot(repository: str, revision: str | None = None) -> Path | None:
    """The folder of a repository in the local cache, whole or in part; None if there is none. Nothing is downloaded."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    home = cache() / repo_folder_name(repo_id=repository, repo_type="model")
    name = revision or constants.DEFAULT_REVISION
    branch = home / "refs" / name
    found = home / "snapshots" / (branch.read_text().strip() if branch.is_file() else name)
    return found if found.is_dir() else None


def cache() -> Path:
    """Where the hub's files are kept: $HF_HUB_CACHE, or below $HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def offline() -> bool:
    """Whether $HF_HUB_OFFLINE forbids downloads."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def ensure(name: str, wanted: Sequence[Download], allowed: bool | None) -> None:
    """Have all of it in the local cache; `name`: what it is for.

    allowed: whether missing files may be downloaded; None: ask on a terminal, and take anything but yes for no, or
    elsewhere name the option --download.
    Raises UserError, one line with repository, file and size, if they may not, or cannot be.
    """
    missing = [each for each in wanted if each.folder is None]
    if not missing:
        return
    told = f"{name} is not in the local hub cache: {' and '.join(map(str, missing))}"
    way = "allow that with --download"
    if allowed is False:
        way = f"get it by dmd2 sample --student {name} --download PROMPT"
    if offline():
        raise UserError(f"{told}; HF_HUB_OFFLINE is set: copy them into {cache()}, or unset it and {way}")
    if allowed is None and sys.stdin.isatty() and sys.stderr.isatty():
        announce(missing)
        print("download? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError(f"{told}; nothing was downloaded")
    elif not allowed:
        raise UserError(f"{told}; it would go to {cache()}: {way}")
    else:
        announce(missing)
    for each in missing:
        each.fetch()


def announce(missing: Sequence[Download]) -> None:
    """Say on stderr what is about to be downloaded, and where to."""
    for each in missing:
        print(f"to download: {each}, to {cache()}", file=sys.stderr)
