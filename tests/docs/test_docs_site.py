"""The site of the documentation: built strictly, complete, and asking no other host for anything."""

import re
import subprocess
import sys

import pytest
from mdblocks import PAGES, ROOT, name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_builds_without_a_warning(site):
    assert (site / "index.html").is_file() and (site / "cli/index.html").is_file()


def test_a_page_loads_nothing_from_another_host(site):
    loading = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?https?://|<link[^>]+stylesheet[^>]+https?://|@import")
    pages = [*site.rglob("*.html")]
    assert pages and [str(p) for p in pages if loading.search(p.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_figure_is_missing(page):
    assert "TODO-FIGURE" not in page.read_text(encoding="utf-8")
