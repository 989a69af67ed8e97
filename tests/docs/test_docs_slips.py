"""Nothing that a reader would type escapes the tests: no other fences, no bare shell, no unknown command."""

import re

import pytest
from mdblocks import PAGES, ROOT, blocks, name
from typer.main import get_command

from dmd2cli.cli.app import app

APP = get_command(app)
WRITTEN = [page for page in PAGES if page != ROOT / "docs/cli.md"]        # cli.md is made from the commands
OF_A_LIST = re.compile(r"\s*([-*+]|\d+\.) | {2,}")


def prose(page):
    """(number, line) of what stands outside of fenced blocks."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = line.startswith("```")
        if not (inside or fence):
            yield number, line
        inside ^= fence


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_there_is_no_fence_that_the_tests_do_not_see(page):
    assert [n for n, line in prose(page) if re.match(r"\s*(~~~|```|<pre|<code)", line)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_there_is_no_block_by_indentation(page):
    found, last, blank = [], "", True
    for number, line in prose(page):
        if line.startswith("    ") and blank and not OF_A_LIST.match(last):
            found.append(number)
        blank, last = not line.strip(), line if line.strip() else last
    assert found == []


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_a_block_that_is_only_shown_holds_no_command_to_type(page):
    typed = re.compile(r"^(\$ |dmd2 [a-z-]+ [^:]|pip install|python -m |torchrun )", re.MULTILINE)
    shown = [b for b in blocks(page) if b.language not in ("bash", "python")]
    assert [b.name for b in shown if typed.search(b.text)] == []


def said(page):
    """Every command of dmd2 that the page has in backquotes in a sentence, as words."""
    text = " ".join(line for _, line in prose(page))
    for code in re.findall(r"(?<!`)`(dmd2 [^`]+)`(?!`)", text):
        yield code, [word.partition("|")[0] for word in code.split()[1:]]


def unknown(words):
    """The first word that is neither a command nor an option of it; None if all are."""
    command = APP
    while words and hasattr(command, "commands"):
        if words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        elif "METRIC" in command.commands:                       # dmd2 eval fid: the first argument of that command
            command = command.commands["METRIC"]
        elif words[0].startswith("-"):
            break
        else:
            return words[0]
    options = {spelling for p in command.params for spelling in (*p.opts, *p.secondary_opts)} | {"--help", "--debug"}
    return next((w for w in words if re.match(r"--?[a-zA-Z]", w) and w.partition("=")[0] not in options), None)


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_a_command_in_a_sentence_exists_with_its_options(page):
    assert [(code, wrong) for code, words in said(page) if (wrong := unknown(words))] == []


def test_a_command_that_does_not_exist_is_noticed():
    assert unknown(["distil", "digits"]) == "distil"
    assert unknown(["sample", "--student", "x", "--sweep"]) == "--sweep"
    assert unknown(["eval", "fid", "--size", "8"]) == "--size"
    assert unknown(["recipes", "explain", "digits"]) is None
