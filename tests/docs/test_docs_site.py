"""The site of the documentation: built strictly, complete, and asking no other host for anything."""

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

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


def test_the_api_pages_have_the_docstrings(site):
    text = (site / "api/plugins/index.html").read_text(encoding="utf-8")
    assert "check_teacher" in text and "Frozen mu_real, a Denoiser." in text


class Quiet(SimpleHTTPRequestHandler):
    """Without a line for each request."""

    def log_message(self, *args):
        pass


@pytest.fixture
def served(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.browser
def test_the_search_finds_a_page_and_no_other_host_is_asked(served):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page, asked, errors = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{served}/api/core/")
        page.keyboard.press("/")
        page.keyboard.type("critic lag")
        page.locator(".md-search-result__item").first.wait_for(state="attached", timeout=20_000)
        browser.close()
    assert asked and [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    assert errors == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_figure_is_missing(page):
    assert "TODO-FIGURE" not in page.read_text(encoding="utf-8")
