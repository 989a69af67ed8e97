"""The recipes of the EDM family from end to end at tier=cpu-smoke: pairs, training, samples, distances."""

import json

import numpy as np
import pytest

SMOKE = ("tier=cpu-smoke", "run.steps=4", "run.save_every=4")
DMD2 = ("imagenet64", "imagenet64-onestage", "imagenet64-nogan", "cifar10-cond")
DMD1 = ("imagenet64-dmd1", "cifar10-cond-dmd1", "cifar10-uncond-dmd1")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def steps(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", DMD2)
def test_dmd2_runs_and_its_student_draws(here, dmd2, recipe):
    stages = ["stages.0.until=2", "stages.1.until=4"] if recipe == "imagenet64" else []
    done = dmd2("distill", recipe, *SMOKE, *stages, "-o", "run")
    assert done.code == 0, done.err
    gan = [any("gan" in key for key in step) for step in steps(here / "run")]
    assert gan == {"imagenet64": [False, True], "imagenet64-nogan": [False, False]}.get(recipe, [True, True])
    assert dmd2("sample", "--student", "run", "-n", "3", "-o", "x.png").code == 0


@pytest.mark.parametrize("recipe", DMD1)
def test_dmd1_runs_on_pairs_of_its_teacher(here, dmd2, recipe):
    assert dmd2("pairs", recipe, "tier=cpu-smoke", "-o", "pairs", "-n", "16").code == 0
    done = dmd2("distill", recipe, *SMOKE, "data.pairs.path=pairs", "-o", "run")
    assert done.code == 0, done.err
    assert all("generator/regression" in step for step in steps(here / "run"))


def test_a_student_is_measured_and_fid_says_what_it_lacks(here, dmd2):
    assert dmd2("distill", "imagenet64-nogan", *SMOKE, "-o", "run").code == 0
    assert dmd2("sample", "--student", "run", "-n", "24", "--seed", "7", "-o", "reference").code == 0
    measured = dmd2("eval", "fd", "--extractor", "tiny", "--allow-small", "-n", "16", "--student", "run",
                    "--reference", "reference")  # fmt: skip
    assert measured.code == 0, measured.err
    found = json.loads(measured.out)
    assert found["metric"] == "fd/tiny" and found["n"] == 16 and found["value"] >= 0
    np.savez("ref.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    refused = dmd2("eval", "fid", "--student", "run", "--reference", "ref.npz")
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    for part in ("weights-inception-2015-12-05-6726825d.pth", "torch-fidelity", "6726825d0af5f729", "--weights"):
        assert part in refused.err


def test_published_recipes_resolve_and_say_which_file_they_need(here, dmd2):
    for recipe in (*DMD2, *DMD1):
        assert dmd2("distill", recipe, "--dry-run").code == 0
        refused = dmd2("distill", recipe, "-o", "run")
        assert refused.code == 2 and "dmd2 convert edm-" in refused.err and len(refused.err.splitlines()) == 1
        assert not (here / "run").exists()
