"""The report in a browser: opens by itself, is drawn, works by keyboard, fits a phone, is dark where that is asked."""

import time
from contextlib import contextmanager
from pathlib import Path

import long_runs
import pytest

from dmd2cli.report.make import Wishes, report

sync = pytest.importorskip("playwright.sync_api", reason="pip install 'dmd2cli[dev]'")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium"),
]


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as play:
        found = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report on two runs."""
    folder = tmp_path_factory.mktemp("page")
    runs = [long_runs.run(folder / "a rather long name of a run", pictures=4), long_runs.run(folder / "b", seed=1)]
    (folder / "report.html").write_bytes(report(runs, Wishes()))
    return folder / "report.html"


@contextmanager
def opened(browser, file, **options):
    """The page, with all it said and asked for."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page, context.said, context.asked = context.new_page(), [], []
    page.on("console", lambda message: context.said.append(message.text))
    page.on("pageerror", lambda error: context.said.append(str(error)))
    page.on("request", lambda request: context.asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    context.close()


def test_it_opens_from_disk_without_an_error_and_asks_for_nothing_else(browser, file):
    with opened(browser, file, offline=True) as page:
        asked = [url for url in page.context.asked if not url.startswith("data:")]
        assert page.context.said == [] and asked == [file.as_uri()]


def test_every_chart_has_a_line_for_each_run(browser, file):
    with opened(browser, file) as page:
        boxes = page.eval_on_selector_all(".chart .raw", "all => all.map(one => one.getBBox().width)")
        assert len(boxes) == 2 * page.locator(".chart").count() > 60 and min(boxes) > 100


def test_the_keyboard_reaches_every_control_and_the_focus_can_be_seen(browser, file):
    with opened(browser, file) as page:
        seen = set()
        for _ in range(100):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.tagName.toLowerCase()"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid" or page.evaluate("document.activeElement === document.body")
        assert {"a", "input", "svg", "div"} <= seen


def test_arrow_keys_move_through_a_curve_and_say_its_values(browser, file):
    with opened(browser, file) as page:
        chart = page.locator(".chart").first
        newest = chart.locator(".read").inner_text()
        chart.locator("svg").focus()
        page.keyboard.press("Home")
        assert "at step 50" in chart.locator(".read").inner_text() and chart.locator(".cursor").count() == 1
        page.keyboard.press("ArrowRight")
        assert "at step 100" in chart.locator(".read").inner_text()
        page.keyboard.press("Escape")
        assert chart.locator(".read").inner_text() == newest and chart.locator(".cursor").count() == 0


def test_pointing_at_a_curve_says_its_value_there(browser, file):
    with opened(browser, file) as page:
        chart = page.locator(".chart").first
        svg = chart.locator("svg")
        svg.scroll_into_view_if_needed()
        box, left, right = svg.bounding_box(), *(float(svg.get_attribute(f"data-{side}")) for side in ("left", "right"))
        page.mouse.move(box["x"] + box["width"] * (left + right) / 2 / 360, box["y"] + box["height"] / 2)
        assert "at step 400" in chart.locator(".read").inner_text()


def test_the_slider_shows_one_picture_at_a_time(browser, file):
    with opened(browser, file) as page:
        film = page.locator(".film").first
        assert film.locator("figcaption:visible").all_inner_texts() == ["Student at step 800"]
        film.locator("input").focus()
        page.keyboard.press("ArrowLeft")
        assert film.locator("figcaption:visible").all_inner_texts() == ["Student at step 600"]


def test_without_scripts_all_is_there_to_be_read(browser, file):
    with opened(browser, file, java_script_enabled=False) as page:
        assert page.locator(".film").first.locator("figcaption:visible").count() == 4
        assert "at step 800" in page.locator(".read").first.inner_text()


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_the_page_never_scrolls_sideways(browser, file, width):
    with opened(browser, file, viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        text = page.locator(".tick").first.bounding_box()
        assert text["height"] > 7


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_is_dark_where_that_is_asked_for_and_can_be_read(browser, file, scheme, dark):
    def light(colour):
        linear = [(c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4) for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def shade(page, selector, name):
        found = page.eval_on_selector(selector, f"one => getComputedStyle(one).{name}")
        return light([float(v) for v in found[found.index("(") + 1 : -1].split(",")[:3]])

    with opened(browser, file, color_scheme=scheme) as page:
        back, card = shade(page, "body", "backgroundColor"), shade(page, ".chart", "backgroundColor")
        assert (back < 0.1) is dark
        inks = [(".quiet", "color", back), (".run-0.raw", "stroke", card), (".run-1.raw", "stroke", card)]
        for selector, name, behind in [*inks, (".said strong", "color", card)]:
            ends = sorted((shade(page, selector, name), behind))
            assert (ends[1] + 0.05) / (ends[0] + 0.05) > (4.5 if name == "color" else 3), selector


def test_on_paper_all_pictures_are_there(browser, file):
    with opened(browser, file) as page:
        page.emulate_media(media="print")
        assert page.locator(".film").first.locator("figcaption:visible").count() == 4
        assert page.locator("nav").is_hidden()


@pytest.mark.slow
def test_a_hundred_thousand_logged_steps_open_in_less_than_two_seconds(browser, tmp_path):
    run = long_runs.run(tmp_path / "long", steps=100_000, every=1, pictures=40)
    began = time.monotonic()
    (tmp_path / "report.html").write_bytes(report([run], Wishes()))
    assert time.monotonic() - began < 60
    assert (tmp_path / "report.html").stat().st_size < 10e6
    with opened(browser, tmp_path / "report.html") as page:
        timing = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        assert page.context.said == [] and 0 < timing < 2000
        assert page.locator(".chart .raw").count() == 39
