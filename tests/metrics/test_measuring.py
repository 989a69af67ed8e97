"""`dmd2 eval` with metrics of any feature space: one command end to end, and what it refuses in one line."""

import json

import numpy as np
import pytest
import torch
from dmd2_plugins.metrics.fd import fd
from dmd2_plugins.metrics.tiny import Tiny
from pictured import pictures, save

from dmd2cli.diversity import diversity
from dmd2cli.engine import evaluate
from dmd2cli.engine.evaluate import evaluate_all
from dmd2cli.frechet import distance
from dmd2cli.pictures import open_pictures


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """An untrained student of 8 x 8 digits, as a run that has just begun."""
    from dmd2cli.engine.distill import job
    from dmd2cli.recipe import load

    folder = tmp_path_factory.mktemp("student") / "run"
    metrics = "metrics=[{use: fd, extractor: tiny, reference: gone, allow_small: true}]"
    job(load("digits", ["run.batch=4", "sampler.steps=2", metrics]), torch.device("cpu")).publish(folder, 0)
    return str(folder)


FD = ("fd", "--extractor", "tiny", "--allow-small")
KID = ("kid", "--extractor", "tiny")


# -- a number with everything beside it ------------------------------------------------------------------------


def test_a_student_against_a_folder(measured, student, folder, tmp_path):
    found = measured(*FD, "-n", 40, "--seed", 3, "--student", student, "--reference", folder, "--json", tmp_path / "f")
    from dmd2cli.student import load_student

    source = load_student(student, torch.device("cpu")).source
    x, y = (Tiny()(images).vectors for images in (source.images(source.conditions(40), 3), pictures(60)))
    assert found["value"] == pytest.approx(distance(x, y), rel=1e-6)
    assert found["metric"] == "fd/tiny" and found["subject"] == student and (found["n"], found["seed"]) == (40, 3)
    assert found["nfe"] == 1 and found["seconds"] > 0 and found["diversity"]["ratio"] > 0
    assert found["baselines"].keys() == {"real", "teacher"} and 0 < found["baselines"]["real"]["value"] < found["value"]
    reference = found["protocol"]["reference"]
    assert reference["images"] == 60 and reference["data"] == open_pictures(folder).fingerprint
    assert {"resize", "scale", "weights", "precision", "distance", "direction"} <= found["protocol"].keys()
    assert json.loads((tmp_path / "f").read_text()) == found


def test_images_that_are_there_are_measured_too(measured, folder, tmp_path):
    np.savez(tmp_path / "x.npz", images=pictures(50, seed=8).permute(0, 2, 3, 1).numpy(), labels=np.arange(50) % 2)
    found = measured(*FD, "--images", tmp_path / "x.npz", "--reference", folder)
    x = Tiny()(pictures(50, seed=8)).vectors
    assert found["value"] == pytest.approx(distance(x, Tiny()(pictures(60)).vectors), rel=1e-6) and found["n"] == 50
    assert found["diversity"] == {"images": pytest.approx(diversity(pictures(50, seed=8), [i % 2 for i in range(50)]))}
    assert "nfe" not in found and found["baselines"].keys() == {"real"}
    few = measured(*FD, "--images", tmp_path / "x.npz", "--reference", folder, "-n", 20)
    assert few["value"] == pytest.approx(distance(x[:20], Tiny()(pictures(60)).vectors), rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "numbers"),
    [("kid", {"std", "subset_size"}), ("precision-recall", {"precision", "recall"}), ("inception-score", {"std"})],
)
def test_the_other_metrics_by_their_names(measured, student, folder, metric, numbers):
    found = measured(metric, "--extractor", "tiny", "-n", 30, "--student", student, "--reference", folder)
    assert {"value", *numbers} <= found.keys() == found["baselines"]["teacher"].keys() - {"diversity"} | {
        "metric", "n", "seed", "diversity", "protocol", "baselines", "subject"
    }  # fmt: skip
    assert {"value", *numbers} == found["baselines"]["real"].keys()
    assert found["metric"].endswith("/tiny") and not found["metric"].startswith(("kid", "inception-score"))


def test_all_measures_the_recipes_metrics_with_what_is_said_on_top(measured, student, folder, refused):
    (found,) = measured("all", "-n", 30, "--student", student, "--reference", folder, "--no-baselines")
    assert found["metric"] == "fd/tiny" and found["baselines"].keys() == {"real"}
    assert refused("all", "--student", student, "-n", 30).startswith("gone: no such file or folder")


def test_a_reference_of_mu_and_sigma_has_no_real_images_beside_it(measured, folder, tmp_path):
    found = measured(*FD, "--images", folder, "--reference", folder)
    kept = found["protocol"]["reference"]["statistics"]
    again = measured(*FD, "--images", folder, "--reference", kept)
    assert again["baselines"] == {} and again["value"] == found["value"] == pytest.approx(0, abs=1e-6)


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "file"), [("edm", "weights-inception-2015-12-05-6726825d.pth"), ("clean", "inception-2015-12-05.pt")]
)
def test_fid_without_weights_names_file_source_hash_and_place(refused, student, cache, protocol, file):
    said = refused("fid", "--protocol", protocol, "--student", student, "--reference", "ref.npz")
    assert file in said and "https://" in said and "SHA-256" in said and str(cache / "weights" / file) in said


@pytest.mark.parametrize("metric", [FD[:-1], ("fd", "--extractor", "digits")])
def test_fewer_samples_than_the_covariance_needs_are_refused_before_anything_is_drawn(refused, metric, folder):
    said = refused(*metric, "--student", "no-such-student", "--reference", folder, "-n", 2047)
    assert "2,047 samples are too few" in said and "--allow-small" in said
    said = refused(*metric, "--student", "no-such-student", "--reference", folder, "-n", 2048)
    assert said.startswith(f"{metric[0]}/{metric[2]}: 60 images in {folder} are too few")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fd"], "metric 'fd' needs --extractor and --reference"),
        (["fd-digits", "--extractor", "tiny"], "--extractor: metric 'fd-digits' does not take it"),
        ([*KID, "--reference", "{real}", "--allow-small"], "--allow-small: metric 'kid' does not take it"),
        (["fid", "--reference", "x", "--protocol", "edn"], "fid: unknown protocol 'edn'; did you mean 'edm'?"),
        ([*FD, "--reference", "no"], "no: no such file or folder"),
        ([*FD, "--reference", "stats.pkl"], "stats.pkl: opening a pickle can run code"),
        ([*FD, "--reference", "{real}", "--images", "{real}", "--student", "x"], "--images excludes --student"),
        ([*FD, "--reference", "{real}", "--images", "{real}", "-n", "61"], "-n 61: {real} has 60 images"),
        ([*FD, "--reference", "{real}", "--images", "{real}", "-n", "1"], "fd/tiny: 1 samples are too few"),
        (["all", "--images", "{real}"], "all: images have no recipe that names metrics"),
        (["precision-recall", *KID[1:], "--reference", "{real}", "-n", "3"], "precision-recall/tiny: 3 samples are"),
        (["inception-score", *KID[1:], "-n", "9"], "class-score/tiny: 9 samples are too few for 10 splits"),
        ([*KID, "--reference", "{real}", "-n", "1"], "kd/tiny: 1 sample is too few"),
    ],
)
def test_wishes_that_cannot_be_had_are_refused_at_once(refused, folder, args, said, student):
    args = [arg.format(real=folder) for arg in args]
    subject = [] if "--images" in args else ["--student", "no-such-student"]
    assert refused(*args, *subject).startswith(said.format(real=folder))


def test_images_of_another_size_are_refused_with_both(refused, tmp_path, folder):
    other = save(pictures(5, side=9), tmp_path / "other")
    said = refused(*FD, "--images", other, "--reference", folder)
    assert "the samples are 9 x 9, the images of" in said and "8 x 8" in said


# -- memory and time -------------------------------------------------------------------------------------------


class Endless:
    """A source that draws batches and notes how many of them are still held by someone."""

    cost = {"nfe": 3, "guidance": 1.0}

    def __init__(self):
        self.alive, self.most = 0, 0

    def conditions(self, n):
        return [None] * n

    def draw(self, raw, seed):
        import weakref

        for start in range(0, len(raw), 50):
            images = pictures(50, seed=start)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(images, self.gone)
            yield images
            del images

    def gone(self):
        self.alive -= 1


def test_no_more_images_are_held_than_a_batch_or_two(folder):
    source = Endless()
    evaluate_all([lambda: fd("tiny", str(folder), allow_small=True)] * 2, source, 1000, 0)
    assert source.most <= 3


def test_seconds_are_those_of_drawing(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: now[0])

    class Slow(Endless):
        def draw(self, raw, seed):
            for images in super().draw(raw, seed):
                now[0] += 2
                yield images

    class Patient:
        name, protocol = "patient", {}

        def update(self, images, conditions):
            now[0] += 100

        def compute(self):
            return {"value": 1.0}

    assert evaluate.measure(Patient(), Slow(), 150, 0)["seconds"] == 6


def test_a_metric_that_knows_no_real_data_has_none_beside_it():
    class Blind:
        name, protocol = "blind", {}

        def update(self, images, conditions):
            pass

        def compute(self):
            return {"value": 0.0}

        def real(self, n, seed):
            return {}

    assert evaluate.evaluate(Blind, Endless(), 50, 0)["baselines"] == {}
