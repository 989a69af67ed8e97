"""The pieces of sd-tiny-digits: captions and their tokens, what the task learns from, and the folder it writes."""

import json

import pytest
import torch
from dmd2_plugins.captioned_digits import pretrain
from dmd2_plugins.captioned_digits.pretrain import captions, pipeline
from dmd2_plugins.captioned_digits.tokenizer import joined, learned, tokenizer
from dmd2_plugins.digits.captions import WORDINGS, WORDS, caption, named
from dmd2_plugins.digits.data import images
from dmd2_plugins.stable_diffusion.teacher import sd15

from dmd2cli.core.random import Rng
from dmd2cli.engine.pretrain import RESULT, pretraining
from dmd2cli.engine.run import run
from dmd2cli.errors import UserError
from dmd2cli.recipe import PretrainRecipe, load
from dmd2cli.weights import read_metadata, read_weights

EVERY = [(digit, wording) for digit in range(10) for wording in range(len(WORDINGS))]
FEW = ("run.steps=4", "run.batch=8", "run.save_every=2", "task.vae_steps=2")

# -- captions ----------------------------------------------------------------------------------------------------


def test_a_caption_names_its_digit_in_every_wording():
    assert caption(3) == "a handwritten three" and len({caption(*one) for one in EVERY}) == 30
    assert [named(caption(*one)) for one in EVERY] == [digit for digit, _ in EVERY]


@pytest.mark.parametrize("text", ["", "a llama", "someone", "two or three", "often"])
def test_a_text_without_a_digit_or_with_several_names_none(text):
    assert named(text) is None


# -- tokens ------------------------------------------------------------------------------------------------------


def test_every_word_of_a_caption_is_one_token_and_reads_back():
    for one in EVERY:
        ids = tokenizer()(caption(*one))["input_ids"]
        assert len(ids) == len(caption(*one).split()) + 2
        assert tokenizer().decode(ids, skip_special_tokens=True).strip() == caption(*one)


def test_other_words_are_spelled_and_nothing_is_unknown():
    ids = tokenizer()("ein Lama, 7 €")["input_ids"]
    assert len(ids) > 10 and tokenizer().eos_token_id not in ids[1:-1]


def test_the_pairs_are_joined_by_frequency_then_by_alphabet():
    """So a text has the same tokens in every process, and a run that continues reads what it learned."""
    assert learned()[:4] == [("e", "n</w>"), ("i", "g"), ("n", "e</w>"), ("t", "h")]
    ends = {"".join(pair) for pair in learned()}
    assert {f"{word}</w>" for word in (*WORDS, "handwritten", "scan")} <= ends
    assert joined(["a", "b", "a", "b"], ("a", "b")) == ["ab", "ab"]
    assert joined(["a", "a", "a"], ("a", "a")) == ["aa", "a"]


# -- what the task learns from -----------------------------------------------------------------------------------


def test_a_share_of_the_captions_is_empty_and_a_share_names_any_digit():
    labels, x = [i % 10 for i in range(4000)], torch.zeros(4000, 1)
    found = captions(labels, x, 0.2, 0.1, Rng(0, 7))
    said = [(label, named(text)) for label, text in zip(labels, found, strict=True) if text]
    assert len(said) / len(found) == pytest.approx(0.9, abs=0.02)
    assert sum(a == b for a, b in said) / len(said) == pytest.approx(0.82, abs=0.02)     # a tenth of 20 % are right
    assert captions(labels, x, 0.0, 0.0, Rng(0, 7)) != captions(labels, x, 0.0, 0.0, Rng(0, 8))
    assert all(named(t) == i for t, i in zip(captions(labels, x, 0.0, 0.0, Rng(0, 7)), labels, strict=True))


def test_the_first_steps_are_the_vae_s_and_the_rest_are_not():
    task, (x, labels) = pipeline(vae_steps=2), images()
    for step, moved in ((1, {"vae"}), (2, {"unet", "text_encoder"})):
        task.network.zero_grad()
        task.loss(task.network, x[:4], labels[:4].tolist(), Rng(0, step).at(slice(0, 4), 4)).backward()
        assert {name.partition(".")[0] for name, p in task.network.named_parameters() if p.grad is not None} == moved


def test_bad_channels_and_other_data_are_refused():
    with pytest.raises(UserError, match="channels must be multiples of 8, got 12"):
        pipeline(unet=(32, 12))
    task = pipeline(vae_steps=0)
    with pytest.raises(UserError, match="'a llama' is not the label of a digit; set data.real to digits"):
        task.loss(task.network, images()[0][:1], ["a llama"], Rng(0, 0))


# -- the run -----------------------------------------------------------------------------------------------------


def trained(folder, *changes, resume="auto"):
    run(load("sd-tiny-digits-teacher", [*FEW, *changes], model=PretrainRecipe), folder, pretraining, resume)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run")


def test_a_run_that_was_stopped_between_vae_and_unet_ends_where_one_ends_that_was_not(whole, tmp_path):
    trained(tmp_path / "run", resume=str(whole / "checkpoints/step-00000002"))
    ours, theirs = read_weights(tmp_path / "run" / RESULT), read_weights(whole / RESULT)
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_the_folder_has_the_weights_and_the_scale_of_the_latents(whole):
    teacher = sd15(model=str(whole / "pipeline"))
    unet, x = teacher.denoiser.backbone.unet, images()[0].expand(-1, 3, -1, -1)
    assert all(value.equal(read_weights(whole / RESULT)[f"unet.{name}"]) for name, value in unet.state_dict().items())
    assert teacher.shape == (4, 4, 4)
    assert teacher.details["prediction"] == "v" and teacher.details["resolution"] == [8, 8]
    assert teacher.decode.latents(x).std() == pytest.approx(1, abs=1e-4)
    assert teacher.details["latents"]["factor"] == 2 and not list(whole.glob(".pipeline*"))


def test_provenance_has_the_error_of_the_vae(whole):
    held = json.loads(read_metadata(whole / RESULT)["provenance"])
    net, pixels = pipeline().network, images()[0].expand(-1, 3, -1, -1)
    net.load_state_dict(read_weights(whole / RESULT))
    with torch.no_grad():
        again = net.vae.decode(net.vae.encode(pixels).latent_dist.mean).sample
    assert held["vae_rmse"] == pytest.approx(float((again - pixels).square().mean().sqrt()), rel=1e-4)
    assert pretrain.score(net)["vae_rmse"] == pytest.approx(held["vae_rmse"], rel=1e-4)
