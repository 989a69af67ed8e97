"""Everything a person can get wrong: one clear line on stderr, exit code 2, and nothing half-written."""

import os
import shutil
import subprocess

import pytest
from PIL import Image

from dmd2cli.engine import checkpoint
from dmd2cli.recipe import differences, load

RECIPE = """\
teacher: digits
student: {lr: 1.0e-3}
critic: {lr: 1.0e-3}
losses: {distribution_matching: {}, denoising: {}}
data: {prompts: {use: class-labels, classes: 10}}
sampler: heun
run: {steps: 6, batch: 8, threads: 1}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(here):
    """A file that holds neither weights nor a recipe, and that no folder can lie under."""
    (here / "file").write_text("just words\n")
    return here / "file"


@pytest.fixture
def copy(tiny, here):
    """A run of its own to damage."""
    shutil.copytree(tiny, here / "run")
    return here / "run"


def tree(folder):
    """Every file below a folder with its bytes."""
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- recipes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch: 8", "bacth: 8", "r.yaml:7: run.bacth: unknown key; did you mean 'batch'?"),
        ("denoising", "denoisng", "r.yaml:4: losses.denoisng: unknown loss; did you mean 'denoising'?"),
        ("steps: 6", "steps: six", 'r.yaml:7: run.steps: must be a valid integer, got "six"'),
        ("steps: 6", "steps: -6", "r.yaml:7: run.steps: must be greater than 0, got -6"),
        ("lr: 1.0e-3}\nc", "lr: 5e-7}\nc", "r.yaml:2: student.lr: '5e-7' is text in YAML; write 5.0e-7"),
        ("teacher: digits", "teacher: digit", "r.yaml:1: teacher: unknown teacher 'digit'; did you mean 'digits'?"),
        ("sampler: heun", "sampler: huen", "r.yaml:6: sampler: unknown sampler 'huen'; did you mean 'heun'?"),
        ("sampler: heun", "sampler: {use: heun, step: 3}", "r.yaml:6: sampler.step: unknown key; did you mean"),
        ("classes: 10", "classes: 11", "r.yaml:5: data.prompts: label 10: the digits have the classes 0 to 9"),
        ("teacher: digits", "teacher: {use: digits, weights: no.st}", "r.yaml:1: teacher: no.st: no such file"),
        ("denoising: {}", "gan_critic: {}", "r.yaml:4: losses.gan_critic reads real data: add data.real, or remove"),
        ("denoising: {}", "gan_generator: {}", "r.yaml:4: no term for the critic: it would never learn; add one"),
        ("run: {", "run: [", "r.yaml:7: not YAML: "),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_refused_with_its_line_before_anything_is_written(here, refused, old, new, said):
    assert old in RECIPE
    (here / "r.yaml").write_text(RECIPE.replace(old, new, 1))
    before = tree(here)
    assert refused("distill", "r.yaml", "-o", "run").startswith(said)
    assert tree(here) == before and not (here / "run").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["distill", "no.yaml"], "no.yaml: no such file, and no packaged recipe of that name"),
        (["distill", "digits", "run.steps=-1"], "override 'run.steps=-1': run.steps: must be greater than 0, got -1"),
        (["distill", "digits", "student.lr=5e-7"], "override 'student.lr=5e-7': student.lr: '5e-7' is text in YAML"),
        (["distill", "digits", "steps"], "override 'steps': not KEY=VALUE"),
        (["distill", "digits", "--device", "gameboy"], "device 'gameboy' cannot be used: "),
        (["distill", "digits", "--resume", "no"], "--resume no: no such checkpoint"),
        (["distill", "digits-teacher"], "digits-teacher: not a recipe for this command; use dmd2 pretrain"),
        (["pretrain", "digits"], "digits: not a recipe for this command; use dmd2 distill digits"),
        (["distill", "."], ".: this is a folder, and a recipe is a file"),
    ],
)
def test_a_bad_command_for_training_is_refused_before_anything_is_written(here, refused, args, said):
    assert refused(*args, "-o", "run").startswith(said)
    assert tree(here) == {} and not (here / "run").exists()


# -- subjects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["sample"], ["eval", "fd-digits"]])
def test_without_a_subject_and_without_a_run_it_says_how_to_make_one(here, refused, args):
    assert refused(*args).startswith("no run with a student under ./runs; name one with --student, or make one")
    assert tree(here) == {}


@pytest.mark.parametrize("args", [["sample", "--student"], ["eval", "fd-digits", "--student"], ["export"]])
def test_a_reference_that_is_no_student_is_refused(here, refused, file, args):
    (here / "empty").mkdir()
    (here / "started").mkdir()
    (here / "started" / "recipe.yaml").write_text(RECIPE)
    more = ["--format", "safetensors", "-o", "out"] if args == ["export"] else []
    before = tree(here)
    assert refused(*args, "nowhere", *more).startswith("nowhere: no such run folder, student folder or safetensors")
    assert refused(*args, "empty", *more).startswith("empty: not a run folder or a student folder")
    assert refused(*args, "started", *more).startswith("started: no student yet")
    assert refused(*args, "file", *more).startswith("file: not a whole safetensors file")
    assert tree(here) == before


def test_weights_without_a_contract_are_no_student(here, refused, copy):
    weights = next((copy / "checkpoints" / checkpoint.name(6)).glob("*.safetensors"))
    assert "holds no dmd2 student" in refused("sample", "--student", weights)


def test_a_student_cut_in_half_is_refused_by_name(here, refused, copy):
    weights = copy / "student" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert refused("sample", "--student", copy).startswith(f"{weights}: not a whole safetensors file")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--labels", "11"], "--labels: no class 11; there are 0 to 9"),
        (["--labels", "0,1,-1"], "--labels: no class -1; there are 0 to 9"),
        (["--labels", "a"], "--labels a: labels are whole numbers with commas between, such as 0,1,2"),
        (["--labels", ""], "--labels : labels are whole numbers"),
        (["--labels", "1,,2"], "--labels 1,,2: labels are whole numbers"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--steps", "-1"], "steps must be at least 1, got -1"),
        (["-n", "0"], "-n 0: at least 1 image is needed"),
        (["-n", "-3"], "-n -3: at least 1 image is needed"),
        (["--guidance", "2"], "--guidance 2: this student has guidance 1 baked in"),
        (["--teacher", "digits"], "--student and --teacher exclude each other"),
        (["--device", "gameboy"], "device 'gameboy' cannot be used: "),
        (["a prompt"], "label 'a prompt': the digits have the classes 0 to 9"),
        (["--grid", "-o", "x.txt"], "-o x.txt: a grid is a .png file"),
    ],
)
def test_a_bad_wish_for_samples_is_refused_before_a_picture_is_written(here, refused, tiny, args, said):
    assert refused("sample", "--student", tiny, *args).startswith(said)
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fd-digit"], "metric 'fd-digit' is not installed; did you mean 'fd-digits'?"),
        (["fd-digits", "-n", "0"], "-n 0: at least 1 image is needed"),
        (["fd-digits", "--steps", "0"], "steps must be at least 1, got 0"),
        (["fd-digits", "-n", "5", "--no-baselines"], "fd-digits: "),
        (["modes", "-n", "9", "--no-baselines"], "modes: "),
    ],
)
def test_a_bad_wish_for_a_measurement_is_refused_before_a_result_is_written(here, refused, tiny, args, said):
    assert refused("eval", *args, "--student", tiny, "--json", "out.json").startswith(said)
    assert tree(here) == {}


def test_a_teacher_of_no_recipe_or_without_steps_is_refused(here, refused):
    assert refused("eval", "fd-digits", "--teacher", "no.yaml").startswith("no.yaml: no such file")
    said = refused("eval", "fd-digits", "--teacher", "digits", "--steps", "0")
    assert said.startswith("override 'sampler.steps=0': sampler: heun: steps must be at least 1, got 0")


def test_an_unknown_exporter_is_answered_with_the_known_ones(here, refused, tiny):
    said = refused("export", tiny, "--format", "onxx", "-o", "out")
    assert said.startswith("exporter 'onxx' is not installed; did you mean 'onnx'?")
    said = refused("export", tiny, "--format", "floppy", "-o", "out")
    assert said.startswith("exporter 'floppy' is not installed; choose from comfyui, diffusers, lora, onnx,")


@pytest.mark.parametrize(
    ("form", "option", "said"),
    [
        ("lora", "rnk=3", "lora.rnk: unknown key; did you mean 'rank'?"),
        ("lora", "rank=abc", 'lora.rank: must be a valid integer, got "abc"'),
        ("safetensors", "student=3", "safetensors.student: unknown key; there is none to choose from"),
        ("lora", "rank", "override 'rank': not KEY=VALUE; write for example run.steps=200"),
    ],
)
def test_a_wrong_option_of_an_exporter_is_named(here, refused, tiny, form, option, said):
    assert refused("export", tiny, "--format", form, "-o", "out", option) == said


# -- places that cannot be written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["distill", "digits", "-o", "{bad}"],
        ["pretrain", "digits-classifier", "-o", "{bad}"],
        ["sample", "--student", "{run}", "-n", "2", "-o", "{bad}.png"],
        ["sample", "--student", "{run}", "-n", "2", "-o", "{bad}"],
        ["eval", "fd-digits", "--student", "{run}", "-n", "9", "--no-baselines", "--json", "{bad}"],
        ["export", "{run}", "--format", "safetensors", "-o", "{bad}"],
        ["export", "{run}", "--format", "torch-export", "-o", "{bad}"],
    ],
)
@pytest.mark.parametrize("bad", ["file/below", "/proc/no-place"])
def test_a_place_that_cannot_be_written_is_named_before_the_work(here, refused, file, tiny, args, bad):
    said = refused(*(arg.format(bad=bad, run=tiny) for arg in args))
    assert said.startswith(bad) and "cannot" in said
    assert tree(here) == {file.relative_to(here): b"just words\n"}


def test_a_folder_is_not_overwritten_by_a_file(here, refused, tiny):
    (here / "folder").mkdir()
    said = refused("eval", "fd-digits", "--student", tiny, "--json", "folder")
    assert said == "folder: is a folder; name a file in it"
    said = refused("export", tiny, "--format", "safetensors", "-o", "folder")
    assert said == "-o folder: is there already; name a new folder, or a file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_named(here, refused):
    (here / "locked").mkdir(mode=0o555)
    assert refused("distill", "digits", "-o", "locked/run").startswith("locked/run: cannot write there (Permission")


# -- runs that cannot be continued -----------------------------------------------------------------------------

SAME = ("digits", "run.steps=12", "run.batch=8", "run.threads=1", "run.save_every=3", "sampler.steps=4")


def test_a_checkpoint_cut_in_half_is_named_and_the_older_one_taken(dmd2, refused, copy):
    newest = checkpoint.latest(copy / "checkpoints")
    file = next(newest.glob("*.safetensors"))
    os.truncate(file, file.stat().st_size // 2)
    before, older = tree(copy), copy / "checkpoints" / checkpoint.name(3)
    said = refused("distill", *SAME, "-o", copy, "--resume", newest)
    assert said.startswith(f"{newest}: damaged checkpoint: {file.name} is missing, cut or changed")
    assert said.endswith(f"continue from an older one with --resume {older}") and tree(copy) == before
    done = dmd2("distill", *SAME, "-o", copy)
    assert done.code == 0 and newest.name in done.err and older.name in done.err


def test_a_run_is_not_started_again_in_its_folder_when_that_is_unwanted(refused, copy):
    before = tree(copy)
    assert refused("distill", *SAME, "-o", copy, "--resume", "never").startswith(f"{copy}: holds a run already")
    assert tree(copy) == before


@pytest.mark.parametrize(
    "change",
    [
        "student.lr=7.0e-3", "student.times=[1.0, 0.5]", "losses.gan_generator.weight=0.7", "losses.gan_generator=null",
        "ttur=4", "run.batch=16", "run.seed=1", "run.clip=null", "run.steps=5", "data.real.split=train",
    ],
)  # fmt: skip
def test_a_recipe_that_differs_from_the_run_names_the_key_and_both_values(refused, copy, change):
    before, held = tree(copy), load(copy / "recipe.yaml")
    found = {key: both for key, *both in differences(held, load(SAME[0], [*SAME[1:], change]))}
    key = next(key for key in found if key.startswith(change.partition("=")[0]))
    old, new = found[key]
    assert key.startswith(change.partition("=")[0]) and old != new
    said = refused("distill", *SAME, change, "-o", copy)
    assert said.startswith(f"{copy}: this run was started with {key} = {old!r}, now it is {new!r}; ")
    assert tree(copy) == before


def test_changes_that_do_not_change_the_training_are_taken_and_recorded(dmd2, copy):
    changes = ("run.micro_batch=4", "run.log_every=1", "run.preview_every=2", "run.save_every=4", "run.keep=1")
    done = dmd2("distill", *SAME, *changes, "run.time_limit=60", "--device", "cpu", "-o", copy)
    assert done.code == 0 and done.out == f"{copy}/student: 1-step student after 12 steps\n"
    recorded = (copy / "recipe.yaml").read_text()
    assert all(f"{change.split('.')[1].replace('=', ': ')}" in recorded for change in changes[:-1])
    assert load(copy / "recipe.yaml").run.keep.last == 1


def test_more_steps_under_a_decaying_rate_are_taken_and_said(dmd2, copy):
    done = dmd2("distill", *SAME, "-o", copy)
    assert done.code == 0
    assert "run.steps 6 -> 12: the learning rate now decays to the new end" in done.err


def test_a_finished_run_started_again_prints_its_result_and_changes_nothing(dmd2, copy):
    before = tree(copy)
    done = dmd2("distill", *SAME, "run.steps=6", "-o", copy)
    assert done.code == 0 and done.out == f"{copy}/student: 1-step student after 6 steps\n"
    assert tree(copy) == before


# -- a full disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(here):
    """Mount a small disk; returns a function of its size in MiB."""
    (here / "disk").mkdir()
    folder = str(here / "disk")

    def disk(size):
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={int(size * 1024)}k", "tmpfs", folder]
        if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
            pytest.skip("mounting a small disk is not allowed here")
        return here / "disk"

    yield disk
    subprocess.run(["umount", folder], capture_output=True)


@pytest.mark.parametrize(
    ("size", "held"), [(1, []), (11.2, []), (12, [3]), (14, [3]), (22.5, [3, 6]), (26, [3, 6])]
)
def test_a_disk_that_fills_up_costs_one_line_and_no_earlier_checkpoint(dmd2, disk, size, held):
    folder = disk(size) / "run"
    said = refused_with_progress(dmd2("distill", *SAME, "run.steps=9", "-o", folder))
    assert "the disk is full" in said or "No space left on device" in said
    assert not list(folder.rglob(".*"))
    assert checkpoint.steps(folder / "checkpoints") == held
    for step in held:
        assert checkpoint.verify(folder / "checkpoints" / checkpoint.name(step)) == step
    if held:
        assert dmd2("sample", "--student", folder, "-n", "2", "-o", "two.png").code == 0
        assert Image.open("two.png").size


def refused_with_progress(done):
    """The last line of a command that was refused after it had begun."""
    *progress, last = done.err.splitlines()
    assert done.code == 2 and done.out == "", done
    assert all(line.startswith("step ") for line in progress) and last.startswith("dmd2: error: "), done.err
    return last


# -- pairs, stages, guidance ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(dmd2, tmp_path_factory):
    """A small set of pairs of the digits teacher."""
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    done = dmd2("pairs", "digits", "sampler={use: ddim, steps: 3}", "-o", folder, "-n", 40, "--shard-size", 16)
    assert done.code == 0, done.err
    return folder


DMD1 = ("distill", "digits-dmd1", "run.batch=8", "run.steps=2", "sampler={use: ddim, steps: 3}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sampler={use: ddim, steps: 4}", "pairs made with sampler.steps 3, and here it is 4"),
        ("sampler={use: heun, steps: 3}", "pairs made with sampler.use ddim, and here it is heun"),
        ("losses.distribution_matching.guidance=2.0", "pairs made with guidance 1.0, and here it is 2.0"),
        ("data.pairs.count=41", "count: 40 pairs are there, got 41"),
        ("data.pairs.batch=3 run.micro_batch=4", "3 pairs cannot be shared out among 2 micro-batches"),
        ("student.guidance={min: 1, max: 3}", "pairs have one guidance scale"),
    ],
)
def test_pairs_that_do_not_fit_the_recipe_are_refused_before_training(here, refused, pairs, change, said):
    changes = change.split(" ") if change.startswith("data.pairs.batch") else [change]
    assert said in refused(*DMD1, f"data.pairs.path={pairs}", *changes, "-o", "run")
    assert tree(here) == {}


def test_pairs_of_another_teacher_are_refused(here, refused, pairs):
    toy = ("distill", "toy-dmd1", "teacher.pretrain_steps=0", "sampler={use: ddim, steps: 3}", "run.steps=2")
    assert "pairs of another teacher (digits)" in refused(*toy, f"data.pairs.path={pairs}", "-o", "run")
    assert tree(here) == {}


def test_pairs_that_were_cut_short_or_never_made_are_refused(here, refused, pairs):
    shutil.copytree(pairs, here / "pairs")
    (here / "pairs" / "pairs-000000016.safetensors").unlink()
    said = refused(*DMD1, "data.pairs.path=pairs", "-o", "run")
    assert "pairs: 24 of 40 pairs are there; run dmd2 pairs again to finish" in said
    assert "data.pairs.path is missing: add it, or pass data.pairs.path=VALUE" in refused(*DMD1, "-o", "run")
    assert "nowhere: no such folder of pairs; make it with dmd2 pairs" in refused(*DMD1, "data.pairs.path=nowhere")
    assert not (here / "run").exists()


def test_stages_that_go_backwards_are_refused_with_their_line(here, refused):
    (here / "r.yaml").write_text(RECIPE + "stages:\n  - {until: 4}\n  - {until: 3}\n  - {}\n")
    assert refused("distill", "r.yaml", "-o", "run").startswith("r.yaml:10: stages.1.until: 3 is not after")
    assert not (here / "run").exists()


def test_steps_that_do_not_divide_the_timesteps_of_a_table_are_refused(here, refused, dmd2):
    ddpm = ("teacher.schedule=ddpm", "teacher.pretrain_steps=0", "teacher.width=16")
    said = refused("distill", "toy-grid25", *ddpm, "student.times=[1.0, 0.6667, 0.3333]", "-o", "run")
    assert "student.times: 0.6667 is between two of the 1000 timesteps" in said and "must divide 1000" in said
    assert dmd2("distill", "toy-grid25", *ddpm, "run.steps=1", "run.batch=4", "-o", "run").code == 0
    assert "must divide 1000" in refused("sample", "--student", "run", "--steps", "3", "-o", "x.png")
    assert not (here / "x.png").exists()


def test_guidance_of_an_unconditional_teacher_is_refused(here, refused):
    toy = ("toy-grid25", "teacher.pretrain_steps=0", "teacher.width=16")
    said = refused("distill", *toy, "losses.distribution_matching.guidance=2.0", "-o", "run")
    assert "losses.distribution_matching: guidance 2: this teacher is unconditional" in said
    assert "this teacher is unconditional" in refused("sample", "--teacher", "toy-grid25", "--guidance", "2")
    assert "this teacher is unconditional" in refused("pairs", *toy, "-o", "pairs", "-n", "3", "--guidance", "2")
    assert tree(here) == {}


def test_a_scale_outside_of_the_range_of_a_student_names_the_range(here, refused, dmd2):
    done = dmd2("distill", "digits-guidance", "run.batch=8", "run.steps=1", "-o", "run")
    assert done.code == 0, done.err
    assert dmd2("sample", "--student", "run", "--guidance", "5", "-n", "3", "-o", "x.png").code == 0
    said = refused("sample", "--student", "run", "--guidance", "5.5", "-n", "3", "-o", "y.png")
    assert said.startswith("--guidance 5.5: this student was trained for scales from 1 to 5")
    assert not (here / "y.png").exists()


def test_lpips_without_weights_says_what_is_missing_and_the_ways_out(here, refused, pairs, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(here / "hub"))
    said = refused(*DMD1, f"data.pairs.path={pairs}", "losses.regression.distance=lpips", "-o", "run")
    assert "losses.regression: " in said and "weights" in said and "distance: l2" in said
    assert not (here / "run").exists()
