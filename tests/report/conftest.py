"""The command in this process, and run folders to report on."""


import long_runs
import pytest


@pytest.fixture
def page(dmd2, tmp_path):
    """Report on run folders; returns the HTML."""

    def page(*args):
        code, _, err = dmd2("report", *args, "-o", tmp_path / "page.html")
        assert code == 0, err
        return (tmp_path / "page.html").read_text(encoding="utf-8")

    return page


@pytest.fixture(scope="session")
def healthy(tmp_path_factory):
    """A run that nothing is wrong with."""
    return long_runs.run(tmp_path_factory.mktemp("runs") / "healthy")


@pytest.fixture(scope="session")
def collapsed(tmp_path_factory):
    """A run whose images of one condition are all alike, with another seed and GAN weight."""
    return long_runs.run(
        tmp_path_factory.mktemp("runs") / "collapsed", seed=1, overrides=["losses.gan_generator.weight=3.0"],
        change=lambda step, found: found | {"health/diversity": 0.2},
    )  # fmt: skip
