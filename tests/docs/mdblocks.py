"""Markdown pages as lists of fenced blocks, and how a documented command is run small."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from distributions import develop

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "recipes/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SMALL = ["run.batch=16", "run.threads=1"]
STEPS = 250
"""Documented steps per step that a test does."""
_FENCE = re.compile(r'```(\w*)(?: title="([^"]+)")?$')
_LENGTH = re.compile(r"^((?:run|teacher)\.steps=)(\d+)$")
_MARK = re.compile(r"<!-- (not run|quoted): (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block; mark and reason are those of a comment in the line before it.

    title: the file that a reader is to write the text into, as in ```python title="restore.py".
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    reason: str = ""
    title: str = ""

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    start = None
    for i, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = i
            continue
        mark = _MARK.match(lines[start - 1]) if start else None
        body = "\n".join(lines[start + 1 : i])
        fence = _FENCE.match(lines[start].rstrip())
        assert fence is not None, f"{page}: line {start + 1}: a fence is ```LANGUAGE, or ```LANGUAGE title=\"FILE\""
        reason = mark.groups() if mark else ("", "")
        found.append(Block(page, start + 1, fence[1], body, *reason, title=fence[2] or ""))
        start = None
    assert start is None, f"{page}: the fence of line {start} is not closed"
    return found


def commands(block: Block) -> list[tuple[dict[str, str], list[str], str | None]]:
    """(environment, arguments of dmd2, file that takes the output) of every line of a shell block."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words, env, target = shlex.split(line, comments=True), {}, None
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            key, _, env[key] = words.pop(0).partition("=")
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        if words[:3] == ["pip", "install", "-e"]:
            found.append((env, words, target))
        elif words:
            assert words[0] == "dmd2", f"{block.name}: {words[0]} is not run; mark the block <!-- not run: reason -->"
            found.append((env, words[1:], target))
    return found


def small(args: list[str]) -> list[str]:
    """The same command with tiny settings."""
    args = [_LENGTH.sub(lambda found: f"{found[1]}{max(1, int(found[2]) // STEPS)}", a) for a in args]
    args = [str(min(int(a), 32)) if before == "-n" else a for before, a in zip(["", *args], args, strict=False)]
    if args[0] in ("distill", "pretrain", "demo"):
        return [*args, *SMALL, *([] if any(a.startswith("run.steps=") for a in args) else ["run.steps=4"])]
    if args[0] == "plan" and args[1].startswith("recipes/"):
        return [*args, "tier=cpu-smoke"]                       # of its real network: tests/engine/test_plan.py, slow
    return args


def dmd2(args: list[str], monkeypatch, target: str | None = None) -> str:
    """Run the command in this process; returns its output. Anything but success fails the test."""
    from dmd2cli.cli.app import main

    monkeypatch.setattr(sys, "argv", ["dmd2", *args])
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as stop:
            assert stop.code in (0, None), f"dmd2 {' '.join(args)}: exit {stop.code}"
    if target:
        Path(target).write_text(out.getvalue(), encoding="utf-8")
    return out.getvalue()


def run(block: Block, namespace: dict, monkeypatch) -> None:
    """Execute a shell or Python block in the working folder, or write the file that it shows."""
    if block.title:
        os.makedirs(Path(block.title).parent, exist_ok=True)
        Path(block.title).write_text(block.text + "\n", encoding="utf-8")
        return
    if block.language == "python":
        exec(compile(block.text, block.name, "exec", dont_inherit=True), namespace)
        return
    for env, args, target in commands(block):
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        if args[0] == "pip":
            install(Path(args[-1]), monkeypatch)
        else:
            dmd2(small(args), monkeypatch, target)
        for key in env:
            monkeypatch.delenv(key)


def install(project: Path, monkeypatch) -> None:
    """What `pip install -e` does, as far as this process sees it. tests/plugins has the real one."""
    site = Path("site-packages").resolve()
    monkeypatch.syspath_prepend(site)
    monkeypatch.syspath_prepend(develop(site, project))


def in_folder(folder: Path, monkeypatch) -> Path:
    """Make folder the working folder."""
    os.makedirs(folder, exist_ok=True)
    monkeypatch.chdir(folder)
    return folder
