"""Published EDM pickles become safetensors that the teacher loads, and every one that does not fit is refused."""

import json
from pathlib import Path

import published
import pytest
import torch
from converting import command, outputs, published_names, randomised, refusal
from dmd2_plugins.edm.config import read
from dmd2_plugins.edm.network import network
from dmd2_plugins.edm.presets import find
from dmd2_plugins.edm.teacher import teacher
from safetensors import safe_open
from safetensors.torch import load_file

from dmd2cli.weights import load_weights, read_metadata

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "edm"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A fresh working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish(made, name="teacher.pkl", keys=lambda found: found, protocol=4, config=None, **changes):
    """Write a network as it is published; keys: what to change in its tensors."""
    options = {**made.backbone.config.json, **(config or {})}
    held = published.contents(published.network(keys(published_names(made)), options, **changes))
    Path(name).write_bytes(published.dumps(held, protocol))


@pytest.mark.parametrize("preset", ["tiny-adm", "tiny-ddpmpp", "tiny-ncsnpp"])
def test_the_teacher_of_a_converted_file_computes_what_was_published_bit_for_bit(preset):
    made = randomised(preset)
    publish(made)
    code, _, err = command("teacher.pkl", "-o", "teacher.safetensors")
    assert code == 0, err
    loaded = teacher(preset, weights="teacher.safetensors")
    config = find(preset).config
    assert outputs(loaded.denoiser, config).equal(outputs(made, config))
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["adm_cond", "ddpmpp_cond", "ncsnpp_uncond_aug"])
def test_reference_networks_convert_to_what_the_reference_computed(name):
    path = PARITY / f"{name}.safetensors"
    if not path.exists():
        pytest.skip("the reference networks are not here")
    with safe_open(path, "pt") as file:
        options = json.loads(file.metadata()["config"])
    held = load_file(path)
    tensors = {key.removeprefix("net."): value for key, value in held.items() if key.startswith("net.")}
    Path("teacher.pkl").write_bytes(published.dumps({"ema": published.network(tensors, options)}))
    assert command("teacher.pkl", "-o", "teacher.safetensors")[0] == 0
    details = json.loads(read_metadata(Path("teacher.safetensors"))["details"])
    made = network(read(details["config"], "test")).eval().requires_grad_(False)
    load_weights(made, Path("teacher.safetensors"))
    assert all(made.state_dict()[k.replace("model.", "backbone.", 1)].equal(v) for k, v in tensors.items())
    labels = {ours: held[f"in.{theirs}"] for ours, theirs in TOLD.items() if f"in.{theirs}" in held}
    found = made(held["in.x"], made.schedule.time(held["in.sigma"].double()), labels)
    assert (found - held["out.denoised"]).norm() <= 1e-5 * held["out.denoised"].norm()


TOLD = {"label": "labels", "augment": "augment_labels"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_that_published_files_may_have_is_read(protocol):
    made = randomised("tiny-adm")
    publish(made, protocol=protocol)
    assert command("teacher.pkl", "-o", "teacher.safetensors")[0] == 0
    assert load_file("teacher.safetensors").keys() == made.state_dict().keys()


def test_the_report_counts_what_was_used_and_names_what_was_not():
    made = randomised("tiny-ddpmpp")
    publish(made, "edm.pkl")
    _, out, _ = command("edm.pkl", "-o", "a.safetensors")
    first, *others = out.splitlines()
    count, numbers = len(made.state_dict()), sum(v.numel() for v in made.state_dict().values())
    assert first == f"a.safetensors: an EDM network, tiny-ddpmpp; {count} tensors used ({numbers:,} numbers), 3 unused"
    assert others == [f"  unused: {key} (not the network)" for key in ("loss_fn", "augment_pipe", "dataset_kwargs")]
    found = json.loads(command("edm.pkl", "-o", "a.safetensors", "--json")[1])
    assert found["converter"] == "edm" and found["numbers"] == numbers and set(found["unused"]) == set(OTHERS)
    assert sorted(found["used"]) == sorted(published_names(made)) and "model.map_augment.weight" in found["used"]


OTHERS = ("loss_fn", "augment_pipe", "dataset_kwargs")


def test_the_details_say_what_network_it_is_and_where_it_came_from():
    publish(randomised("tiny-adm"), config={"dropout": 0.1, "use_fp16": True})
    assert command("teacher.pkl", "-o", "a.safetensors")[0] == 0
    details = json.loads(read_metadata(Path("a.safetensors"))["details"])
    assert details["family"] == "edm" and details["preset"] == "tiny-adm"
    assert read(details["config"], "test").dropout == 0.1 and details["source"]["use_fp16"] is True
    assert details["source"]["file"] == "teacher.pkl" and "CC BY-NC-SA 4.0" in details["source"]["licence"]
    assert len(details["source"]["sha256"]) == 64


def test_weights_of_half_precision_become_float32():
    publish(randomised("tiny-adm"), keys=lambda found: {name: value.half() for name, value in found.items()})
    assert command("teacher.pkl", "-o", "a.safetensors")[0] == 0
    assert {value.dtype for value in load_file("a.safetensors").values()} == {torch.float32}


def test_tensors_that_are_views_of_others_are_read_as_they_are():
    made = randomised("tiny-adm")
    both = torch.stack([made.backbone.out_conv.bias, made.backbone.out_conv.bias + 1], dim=1)
    publish(made, keys=lambda found: {**found, "model.out_conv.bias": both[:, 1]})
    assert command("teacher.pkl", "-o", "a.safetensors")[0] == 0
    assert load_file("a.safetensors")["backbone.out_conv.bias"].equal(both[:, 1])


# -- files that do not fit -------------------------------------------------------------------------------------


def without(name):
    return lambda found: {key: value for key, value in found.items() if key != name}


def with_(name, value):
    return lambda found: {**found, name: value}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (without("model.out_norm.bias"), "lacks model.out_norm.bias (1 in all)"),
        (with_("model.more.weight", torch.ones(2)), "has unknown model.more.weight (1 in all)"),
        (with_("model.out_norm.bias", torch.ones(2)), "has other shapes of model.out_norm.bias (1 in all)"),
        (with_("model.out_norm.bias", torch.ones(32, dtype=torch.int64).detach()), "weights of type torch.int64"),
    ],
    ids=["missing", "unknown", "shape", "type"],
)
def test_a_tensor_that_does_not_fit_is_an_error_and_nothing_is_written(monkeypatch, keys, said):
    monkeypatch.setattr(published, "BUFFERS", (*published.BUFFERS, "bias"))       # a Parameter cannot be an integer
    publish(randomised("tiny-adm"), keys=keys)
    assert said in refusal("teacher.pkl")


def test_a_file_that_cannot_be_converted_leaves_the_result_of_before():
    publish(randomised("tiny-adm"))
    assert command("teacher.pkl", "-o", "out.safetensors")[0] == 0
    before = Path("out.safetensors").read_bytes()
    publish(randomised("tiny-adm"), keys=without("model.out_norm.bias"))
    refusal("teacher.pkl")
    assert Path("out.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"img_resolution": 10**9}, "img_resolution of its network is no usual size"),
        ({"num_blocks": 4000}, "4000 blocks per level and 149 tensors"),
        ({"model_channels": 0}, "model_channels of its network is no usual size"),
        ({"channel_mult": []}, "channel_mult of its network is no usual size"),
        ({"channel_mult": [1] * 17}, "channel_mult of its network is no usual size"),
        ({"channel_mult": 3}, "channel_mult of its network is no usual size"),
        ({"label_dim": "10"}, "label_dim of its network is no usual size"),
        ({"model_type": "VisionTransformer"}, "model_type 'VisionTransformer' is not supported"),
        ({"encoder_type": "skip"}, "encoder_type 'skip' is not supported"),
        ({"sigma_data": 1.0}, "sigma_data = 1.0 is not supported"),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"model_channels": torch.ones(1)}, "made with a value that is neither number nor text"),
    ],
)
def test_a_configuration_that_is_none_is_refused_before_any_network_is_laid_out(config, said):
    made = randomised("tiny-adm")
    assert len(made.state_dict()) == 149
    publish(made, config=config)
    assert said in refusal("teacher.pkl")


def test_networks_of_other_classes_are_named():
    made = randomised("tiny-adm")
    held = published.network(published_names(made), made.backbone.config.json)
    held.class_name = "VEPrecond"
    Path("teacher.pkl").write_bytes(published.dumps({"ema": held}))
    assert "a network of class VEPrecond; only EDMPrecond networks are read" in refusal("teacher.pkl")


@pytest.mark.parametrize("held", [{"G": 1}, [1, 2], {"ema": 3}, {"ema": {"a": 1}}, None])
def test_pickles_of_something_else_are_refused(held):
    Path("teacher.pkl").write_bytes(published.dumps(held))
    said = refusal("teacher.pkl")
    assert "no network under 'ema'" in said or "holds a module that is none" in said


@pytest.mark.parametrize(
    "state",
    [{"_modules": {"model": 3}}, {"_parameters": {"a": "text"}}, {"_buffers": None}, {"_init_args": (64,)}],
    ids=lambda state: next(iter(state)),
)
def test_modules_that_are_garbled_are_refused(state):
    made = randomised("tiny-adm")
    held = published.network(published_names(made), made.backbone.config.json)
    held.state.update(state)
    Path("teacher.pkl").write_bytes(published.dumps({"ema": held}))
    assert "not a published EDM network, or damaged" in refusal("teacher.pkl")


# -- files that are no files of ours ---------------------------------------------------------------------------


def test_what_is_no_checkpoint_at_all_gets_one_line():
    publish(randomised("tiny-adm"))
    whole = Path("teacher.pkl").read_bytes()
    for cut in (3, 100, len(whole) // 2, len(whole) - 1):
        Path("cut.pkl").write_bytes(whole[:cut])
        assert "not a whole pickle" in refusal("cut.pkl")
    Path("empty.pkl").touch()
    assert "is empty" in refusal("empty.pkl")
    Path("text.pkl").write_text("hello\n")
    assert "not a checkpoint that is known here; converters: edm, edm-student" in refusal("text.pkl")
    assert "not a whole pickle" in refusal("text.pkl", "--from", "edm")
    assert "is a folder" in refusal(Path.cwd())
    assert "no such file" in refusal("gone.pkl")


def test_options_that_make_no_sense_get_one_line():
    publish(randomised("tiny-adm"))
    assert "--from edn: unknown converter; did you mean 'edm'?" in refusal("teacher.pkl", "--from", "edn")
    code, _, said = command("teacher.pkl", "-o", "teacher.pt")
    assert code == 2 and "ends in .safetensors" in said
    Path("folder.safetensors").mkdir()
    code, _, said = command("teacher.pkl", "-o", "folder.safetensors")
    assert code == 2 and "is a folder" in said
