"""The page in Chromium: several raters at once, keyboard, touch, phone width, light and dark, reload, a lost server."""

import threading

import pytest
import studies
import uvicorn

from dmd2cli.study.serving import listen

api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.browser]


class Served:
    """A study on a free port, in a thread."""

    def __init__(self, folder, port=0):
        self.held = studies.server(folder)
        self.socket = listen("127.0.0.1", port)
        self.port = self.socket.getsockname()[1]
        self.link = f"http://127.0.0.1:{self.port}/?token={studies.TOKEN}"
        settings = uvicorn.Config(self.held.app(), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(settings)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.held.votes.close()


@pytest.fixture(scope="module")
def chromium():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(study):
    found = Served(study)
    yield found
    found.stop()


@pytest.fixture
def opened(chromium, served):
    """Open the page in a browser of its own; console errors and requests elsewhere fail the test."""
    wrong, contexts = [], []

    def opened(name="Ada", **options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda err: wrong.append(str(err)))
        page.on("request", lambda asked: None if asked.url.startswith(served.link[:21]) else wrong.append(asked.url))
        page.goto(served.link)
        if name is not None:
            page.fill("#name", name)
            page.keyboard.press("Enter")
            shown(page, 1)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def shown(page, number):
    """Wait for a pair with its images."""
    api.expect(page.locator("#count")).to_have_text(f"Pair {number} of 3")
    api.expect(page.locator("[aria-pressed=true]")).to_have_count(0)
    api.expect(page.locator("img.ready")).to_have_count(2)


def answered(page, text):
    page.wait_for_selector(f"[aria-pressed=true]:has-text('{text}')")
    page.wait_for_timeout(250)


def test_a_pair_is_answered_by_arrows_and_by_numbers_and_the_last_answer_is_undone(opened, served):
    page = opened()
    page.keyboard.press("ArrowLeft")
    answered(page, "Left")
    page.keyboard.press("3")
    shown(page, 2)
    page.keyboard.press("u")
    answered(page, "Left")
    assert page.inner_text("#count") == "Pair 1 of 3" and page.locator("[aria-pressed=true]").count() == 1
    assert served.held.votes.counts() == (1, 1)


def test_everything_is_reached_by_tab_with_a_visible_focus(opened):
    page = opened()
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert names[:2] == ["Enlarge the left image", "Enlarge the right image"] and len(set(names[2:5])) == 3
    page.keyboard.press("Enter")
    answered(page, "Right")


def test_after_a_reload_the_page_is_where_it_was(opened):
    page = opened()
    page.keyboard.press("ArrowDown")
    answered(page, "No difference")
    before = page.evaluate("[left.src, right.src, text.textContent]")
    page.reload()
    page.wait_for_selector("[aria-pressed=true]")
    assert page.evaluate("[left.src, right.src, text.textContent]") == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(320, 640), (375, 700), (844, 390), (1280, 800), (2560, 1300)])
def test_at_every_width_nothing_is_cut_off_and_text_can_be_read(opened, size, scheme):
    touch = size[0] < 1000
    page = opened(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, has_touch=touch, is_mobile=touch)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in page.locator(".answers button").all():
        box = button.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 60
    left, right = page.locator(".picture").all()
    assert left.bounding_box()["y"] == right.bounding_box()["y"] and left.bounding_box()["width"] > 100
    for selector in ("#text", ".question h2", ".answers button", "#count"):
        assert contrast(page, selector) >= 4.5, selector


def contrast(page, selector):
    """Of a text against the first background behind it (WCAG)."""
    return page.evaluate(
        """selector => {
            const light = (rgb) => rgb.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
                .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            let node = document.querySelector(selector);
            const ink = light(getComputedStyle(node).color);
            while (getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)") node = node.parentElement;
            const page = light(getComputedStyle(node).backgroundColor);
            return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05);
        }""",
        selector,
    )


def test_by_touch_a_rater_comes_to_the_end(opened):
    page = opened(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    for number in range(1, 4):
        shown(page, number)
        page.locator("[data-question=quality] [data-side=left]").tap()
        answered(page, "Left")
        page.locator("[data-question=alignment] [data-side=none]").tap()
    page.wait_for_selector("#end:not([hidden])")
    assert page.inner_text("#count") == "3 of 3" and not page.is_visible("#rate")


def test_an_image_is_enlarged_and_keys_do_not_vote_meanwhile(opened, served):
    page = opened()
    page.click("[data-picture=right]")
    large, right = (page.get_attribute(image, "src") for image in ("#large-image", "#right"))
    assert page.is_visible("#large") and large.endswith(right)
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    assert not page.is_visible("#large") and served.held.votes.counts()[1] == 0


def test_prompts_and_names_are_text(opened):
    page = opened("<b onclick=alert(1)>Bob</b>")
    texts = set()
    for number in range(1, 4):
        shown(page, number)
        texts.add(page.inner_text("#text"))
        page.keyboard.press("1")
        answered(page, "Left")
        page.keyboard.press("1")
    assert texts == set(studies.TEXTS) and page.locator("main b").count() == 0


def test_several_raters_at_once_do_not_disturb_each_other(opened, served):
    pages = [opened(f"Rater {k}") for k in range(4)]
    for number in range(1, 4):
        for key in ("1", "2"):
            for page in pages:
                page.keyboard.press(key)
            for page in pages:
                page.wait_for_timeout(250)
        if number < 3:
            for page in pages:
                shown(page, number + 1)
    for page in pages:
        page.wait_for_selector("#end:not([hidden])")
    assert served.held.votes.counts() == (4, 24)


def test_an_answer_that_the_server_missed_is_sent_again(chromium, study):
    first = Served(study)
    page = chromium.new_context().new_page()
    page.goto(first.link)
    page.click("button.primary")
    shown(page, 1)
    first.stop()
    page.keyboard.press("1")
    page.wait_for_selector("#trouble:not([hidden])")
    second = Served(study, first.port)
    page.wait_for_selector("#trouble", state="hidden", timeout=20_000)
    answered(page, "Left")
    assert second.held.votes.counts() == (1, 1)
    page.context.close()
    second.stop()
