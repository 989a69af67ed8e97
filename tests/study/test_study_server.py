"""The page and its requests, in process: who gets in, what is refused, and that nothing foreign is executed or read."""

import json
import re
import sqlite3
from http.cookies import SimpleCookie

import pytest
import studies
from studies import HERE, TEXTS, TOKEN, client, rater, vote

from dmd2cli.study.guard import HEADERS
from dmd2cli.study.limits import BURST, PER_SECOND, Limits
from dmd2cli.study.names import clean
from dmd2cli.study.set import load
from dmd2cli.study.votes import VOTES

# -- getting in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "é\udcff", "x" * 4000])
def test_without_the_token_everything_is_403(app, token):
    params = {} if token is None else {"token": token.encode("utf-8", "replace").decode()}
    for path in ("/", "/style.css", "/study.js", "/api/state", "/image/x", "/nothing"):
        assert client(app).get(path, params=params).status_code == 403


def test_the_page_keeps_the_token_in_a_cookie_no_script_and_no_other_site_can_use(app, study):
    answer = client(app).get("/", params={"token": TOKEN})
    (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
    assert cookie.key == f"dmd2-{load(study).id}-token" and cookie["httponly"] and cookie["samesite"] == "strict"


def test_every_answer_has_the_headers_that_keep_others_out(app):
    browser = rater(app)
    for answer in (browser.get("/"), browser.get("/api/state"), browser.get("/nothing"), client(app).get("/")):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"] and "http" not in HEADERS["content-security-policy"]


def test_the_page_has_no_inline_script_or_style_and_asks_nobody_else(app):
    browser = rater(app)
    page = browser.get("/").text
    assert not re.search(r"<script(?![^>]*src)|<style|\son\w+=|\sstyle=|https?://", page)
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert browser.get(f"/{name}").status_code == 200, name
    assert not re.search(r"https?://|innerHTML|eval\(", browser.get("/study.js").text)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:8765", "", "[", "localhost@evil"])
def test_on_loopback_only_names_of_this_machine_are_answered(app, host):
    assert client(app).get("/", params={"token": TOKEN}, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_names_of_this_machine_are_answered_on_any_port(app, host):
    assert client(app).get("/", params={"token": TOKEN}, headers={"host": host}).status_code == 200


def test_elsewhere_any_name_is_answered(study):
    found = studies.server(study, local=False)
    assert client(found.app(), "http://rig.example:99").get("/", params={"token": TOKEN}).status_code == 200
    found.votes.close()


def test_a_page_of_another_site_cannot_vote(app):
    browser = rater(app)
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null"):
        answer = browser.post("/api/vote", json={}, headers={"origin": origin})
        assert answer.status_code == 403
    assert browser.get("/api/state", headers={"origin": HERE}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(app, method):
    browser = rater(app)
    for path in ("/", "/api/vote", "/api/state", "/image/x"):
        assert browser.request(method, path).status_code == 405


# -- rating ----------------------------------------------------------------------------------------------------


def test_a_rater_goes_through_all_pairs_and_undoes_the_last_answer(app, study):
    browser = rater(app)
    state = browser.get("/api/state").json()
    assert (state["name"], state["total"], state["done"], state["undo"]) == ("Ada", 3, 0, None)
    seen = []
    while state["pair"]:
        seen.append((state["pair"]["number"], state["pair"]["text"]))
        for question in ("quality", "alignment"):
            state = vote(browser, seen[-1][0], question).json()
    assert sorted(seen) == list(enumerate(TEXTS)) and state["done"] == 3
    back = browser.post("/api/undo", json=state["undo"]).json()
    assert back["pair"]["number"] == seen[-1][0] and back["pair"]["answers"] == {"quality": "left"}


def test_after_a_restart_a_rater_is_exactly_where_they_were(study):
    first = studies.server(study)
    browser = rater(first.app())
    shown = browser.get("/api/state").json()["pair"]["number"]
    before = vote(browser, shown, side="right").json()
    first.votes.close()
    second = studies.server(study)
    again = client(second.app(), cookies=browser.cookies)
    assert again.get("/api/state").json() == before and before["pair"]["answers"] == {"quality": "right"}
    second.votes.close()


def test_two_browsers_of_one_name_are_two_raters(app):
    first, second = rater(app, "Ada"), rater(app, "Ada")
    vote(first, 0)
    assert second.get("/api/state").json()["undo"] is None


def test_joining_again_changes_nothing(app):
    browser = rater(app)
    state = vote(browser, 0).json()
    assert browser.post("/api/join", json={"name": "Eve"}).json() == state


def test_what_the_page_is_told_does_not_say_which_arm_is_which(app, study):
    browser = rater(app)
    said = browser.get("/api/state").text + browser.get("/").text
    assert "one" not in json.loads(browser.get("/api/state").text)["pair"] and "arm" not in said
    first, second = load(study).arms
    pair = browser.get("/api/state").json()["pair"]
    assert {pair["left"], pair["right"]} == {f"image/{arm.images[pair['number']]}" for arm in (first, second)}


def test_pictures_are_served_by_hash_and_only_as_they_were(app, study):
    browser = rater(app)
    sha256 = load(study).arms[0].images[0]
    answer = browser.get(f"/image/{sha256}")
    assert answer.headers["content-type"] == "image/png" and answer.content.startswith(b"\x89PNG")
    (study / "images/0/000000.png").write_bytes(b"<script>")
    assert browser.get(f"/image/{sha256}").status_code == 404


def test_nobody_votes_before_joining(app):
    browser = client(app)
    browser.get("/", params={"token": TOKEN})
    assert vote(browser, 0).status_code == 401 and browser.get("/api/state").json() == {}


def test_when_the_disk_fails_a_vote_is_not_acknowledged(app, study):
    browser = rater(app)
    with sqlite3.connect(study / VOTES) as base:
        base.execute("DROP TABLE seen")
    answer = vote(browser, 0)
    assert answer.status_code == 503 and "not saved" in answer.json()["error"]


# -- what strangers send ---------------------------------------------------------------------------------------

ODD = [
    "../study.json", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "%2e%2e/votes.sqlite", "\\..\\x", "0" * 64, "%00", "é",
    "images/0/000000.png",
]  # fmt: skip
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("under", ["/image/", "/", "/api/", "/image/%2e%2e/"])
def test_no_path_of_a_request_leads_to_a_file(app, under):
    browser = rater(app)
    for path in ODD:
        answer = browser.get(f"{under}{path}")
        assert answer.status_code in (404, 405) and answer.headers["content-type"] == "application/json", path


BAD = [
    {}, {"pair": 0}, {"pair": "0", "question": "quality", "side": "left", "key": "k" * 8},
    *({"pair": pair, "question": "quality", "side": "left", "key": "k" * 8}
      for pair in (-1, 6, 10**30, True, 0.0, None, [0], 1e400)),
    *({"pair": 0, "question": question, "side": "left", "key": "k" * 8} for question in ("", "x", "quality'--", None)),
    *({"pair": 0, "question": "quality", "side": side, "key": "k" * 8} for side in ("", "LEFT", "left;", 1)),
    *({"pair": 0, "question": "quality", "side": "left", "key": key} for key in ("", "short", "k" * 65, "é" * 9)),
]  # fmt: skip


def test_a_vote_that_makes_no_sense_is_400_and_changes_nothing(app):
    browser = rater(app)
    for asked in BAD:
        answer = browser.post("/api/vote", content=json.dumps(asked).encode(), headers=JSON)
        assert answer.status_code == 400 and browser.get("/api/state").json()["undo"] is None, asked


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"", "application/json", 400), (b"{", "application/json", 400), (b"[]", "application/json", 400),
        (b"\xff\xfe", "application/json", 400), (b"[" * 4000, "application/json", 400),
        (b"9" * 4000, "application/json", 400), (b'{"name": "' + b"x" * 5000 + b'"}', "application/json", 413),
        (b"name=Ada", "application/x-www-form-urlencoded", 415), (b"{}", "text/plain", 415), (b"{}", "", 415),
        (b'{"name": 3}', "application/json", 400),
    ],
)  # fmt: skip
def test_a_body_that_is_no_small_json_object_is_refused(app, body, kind, code):
    browser = client(app)
    browser.get("/", params={"token": TOKEN})
    answer = browser.post("/api/join", content=body, headers={"content-type": kind})
    assert answer.status_code == code and list(answer.json()) == ["error"]


def test_a_body_without_a_length_is_cut_off(app):
    browser = rater(app)
    answer = browser.post("/api/vote", content=(b" " * 1000 for _ in range(50)), headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("", ""), ("  Ada \n Lovelace ", "Ada Lovelace"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("Robert'); DROP TABLE votes;--", "Robert'); DROP TABLE votes;--"), ("\x1b[31mred\x00", "[31mred"),
        ("\u202eevil", "evil"), ("李雷 👩‍🔬", "李雷 👩‍🔬"), ("\udcff\ud800", ""), ("{{ 7*7 }}", "{{ 7*7 }}"),
    ],
)  # fmt: skip
def test_any_name_is_text(app, name, kept):
    browser = client(app)
    browser.get("/", params={"token": TOKEN})
    answer = browser.post("/api/join", content=json.dumps({"name": name}).encode(), headers=JSON)
    assert answer.json()["name"] == kept == clean(name)
    assert vote(browser, 0).status_code == 200


def test_a_name_has_an_end(app):
    browser = client(app)
    browser.get("/", params={"token": TOKEN})
    assert browser.post("/api/join", json={"name": "x" * 61}).status_code == 400


def test_a_client_that_asks_without_end_is_429_and_others_are_not(study, monkeypatch):
    monkeypatch.setattr("dmd2cli.study.server.Limits", lambda: Limits(clock=lambda: 0.0))      # all in one moment
    served = studies.server(study)
    app = served.app()
    fast, calm = rater(app), rater(app)
    codes = [fast.get("/style.css").status_code for _ in range(int(BURST) + 20)]
    assert codes[0] == 200 and codes[-1] == 429 and calm.get("/style.css").status_code == 200
    served.votes.close()


def test_a_bucket_fills_again_with_time():
    now = [0.0]
    limits = Limits(lambda: now[0])
    assert sum(limits.take("a") for _ in range(1000)) == BURST
    now[0] += 1
    assert sum(limits.take("a") for _ in range(1000)) == PER_SECOND


# -- dmd2 study serve ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["no/such"], "no/such: no such folder"),
        (["{study}/images"], "is no study"),
        (["{study}", "--port", "70000"], "--port 70000: ports are"),
        (["{study}", "--host", "no such host"], "not an address"),
        (["{study}", "--host", "192.0.2.1", "--port", "0"], "cannot be listened on"),
        (["{study}", "--token", "a b", "--port", "0"], "--token: expected"),
        (["{study}", "--token", "", "--port", "0"], "--token: expected"),
    ],
)
def test_what_cannot_be_served_is_one_line(dmd2, study, args, said):
    code, out, err = dmd2("study", "serve", *(arg.format(study=study) for arg in args))
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(dmd2, study):
    from dmd2cli.study.serving import listen

    with listen("127.0.0.1", 0) as taken:
        code, _, err = dmd2("study", "serve", study, "--port", taken.getsockname()[1])
    assert code == 2 and "in use by another program" in err and err.count("\n") == 1


def test_an_image_that_is_gone_is_named(dmd2, study):
    (study / "images/1/000002.png").unlink()
    code, _, err = dmd2("study", "serve", study)
    assert code == 2 and "000002.png: an image of 'two' is gone" in err


def test_the_token_outlives_the_server_and_is_for_the_owner_alone(study):
    from dmd2cli.study.serving import kept

    first = kept(study, None)
    assert len(first) >= 32 and kept(study, None) == first
    assert (study / "token").stat().st_mode & 0o777 == 0o600
    assert kept(study, "another") == "another" == kept(study, None)
