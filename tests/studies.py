"""Small studies, and raters who vote on them."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from dmd2cli.data.sources.detect import open_source
from dmd2cli.study.arms import Files
from dmd2cli.study.make import make
from dmd2cli.study.server import Server
from dmd2cli.study.set import load
from dmd2cli.study.votes import Votes

TOKEN = "the-token-of-a-test"
HERE = "http://127.0.0.1:8765"
TEXTS = ("a llama", "an owl, oil painting", "the word “hi” <b>in</b> snow")


def picture(path, colour, size=(12, 10), **options):
    """A file of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def folder(path, names, seed=0):
    """Images of random colours."""
    for name, colour in zip(names, np.random.default_rng(seed).integers(0, 256, (len(names), 3)), strict=True):
        picture(path / name, tuple(map(int, colour)))
    return path


def numbered(path, n, seed=0):
    return folder(path, [f"{i:06d}.png" for i in range(n)], seed)


def files(path, name=None):
    """A folder as an arm."""
    return Files(name or path.name, open_source(str(path)), {"images": str(path)})


def study(path, texts=TEXTS, arms=("one", "two"), n=None):
    """A study of folders of colours."""
    made = [files(numbered(path / "arms" / arm, n or len(texts), seed), arm) for seed, arm in enumerate(arms)]
    make(path / "study", made, list(texts))
    return path / "study"


def server(folder: Path, local=True) -> Server:
    held = load(folder)
    return Server(folder, held, Votes(folder, held.id), TOKEN, local)


def client(app, where=HERE, **options):
    return TestClient(app, where, follow_redirects=False, **options)


def rater(app, name="Ada"):
    """A browser in which somebody has joined."""
    found = client(app)
    assert found.get("/", params={"token": TOKEN}).status_code == 200
    assert found.post("/api/join", json={"name": name}).status_code == 200
    return found


def vote(browser, pair, question="quality", side="left", key=None):
    key = key or hashlib.sha256(repr((pair, question, side)).encode()).hexdigest()[:32]
    return browser.post("/api/vote", json={"pair": pair, "question": question, "side": side, "key": key})
