"""clip-score: both protocols against a literal computation, where its weights come from, and what is refused."""

import json
import math

import numpy as np
import pytest
import tiny_clip
import torch
from dmd2_plugins.metrics import clip_model
from dmd2_plugins.metrics.clip_model import clip, digest, with_prefix
from dmd2_plugins.metrics.clip_score import ClipScore
from open_clip.tokenizer import SimpleTokenizer
from pictured import pictures, save
from PIL import Image

from dmd2cli.errors import UserError
from dmd2cli.testing import check_metric

LONG = " ".join(f"word{i}" for i in range(90))
PROMPTS = ["a red cat", "two dogs on a bench, at night", "", LONG, "a red cat"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_clip.saved(tmp_path_factory.mktemp("clip") / "tiny"))


def wide(n, seed=0):
    """Images of 70 x 50."""
    return pictures(n, seed, side=70)[:, :, 10:60]


def of_open_clip(image):
    """32 x 32 by Pillow's bicubic of the shorter side and a centre crop, normalised."""
    factor = 32 / min(image.size)
    image = image.resize([math.floor(side * factor) for side in image.size], Image.Resampling.BICUBIC)
    left, upper = (round((side - 32) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, upper, left + 32, upper + 32)), dtype=np.float64) / 255
    return torch.from_numpy(((pixels - MEAN) / STD).transpose(2, 0, 1)).float()[None]


def cosine(network, pixels, tokens):
    with torch.no_grad():
        x, y = network.encode_image(pixels)[0].double(), network.encode_text(torch.tensor([tokens]))[0].double()
    return float(x @ y / x.norm() / y.norm())


def literal(images, prompts, paper):
    """The mean cosine, one image at a time, in float64 after the network."""
    network, start, end, found = tiny_clip.network(), 49406, 49407, []
    for image, prompt in zip(images, prompts, strict=True):
        picture, words = Image.fromarray(image.permute(1, 2, 0).numpy()), SimpleTokenizer().encode(prompt)
        if paper:
            side = min(picture.size)
            left, upper = ((length - side) // 2 for length in picture.size)
            picture = picture.crop((left, upper, left + side, upper + side))
            picture = picture.resize((256, 256), Image.Resampling.LANCZOS)
        tokens = [start, *words, end]
        if len(tokens) > 77:
            tokens = [*tokens[:76], end]
        if paper:
            tokens = [start, *SimpleTokenizer().encode("A photo depicts"), *tokens[1:]]
            tokens = [*tokens[:76], end] if len(tokens) >= 77 else tokens
        found.append(cosine(network, of_open_clip(picture), tokens + [0] * (77 - len(tokens))))
    return sum(found) / len(found)


@pytest.mark.parametrize("protocol", ["paper", "plain"])
def test_it_is_the_mean_cosine_of_prepared_images_and_prompts(model, protocol):
    images = wide(len(PROMPTS))
    metric = ClipScore(protocol, model, batch=2)
    metric.update(images[:3], PROMPTS[:3])
    metric.update(images[3:], PROMPTS[3:])
    assert metric.compute()["value"] == pytest.approx(literal(images, PROMPTS, protocol == "paper"), abs=1e-6)
    assert metric.name == f"clip-score/{protocol}-tiny"
    assert abs(literal(images, PROMPTS, True) - literal(images, PROMPTS, False)) > 1e-4


def test_three_tokens_stand_after_the_start_and_a_cut_text_ends_all_the_same():
    tokenize = SimpleTokenizer(context_length=77)
    short, full, cut = with_prefix(tokenize, ["a cat", " ".join(["cat"] * 73), LONG], "A photo depicts").tolist()
    added, (cat,) = tokenize.encode("A photo depicts"), tokenize.encode("cat")
    assert len(added) == 3
    assert short[:7] == [49406, *added, *tokenize.encode("a cat"), 49407] and not any(short[7:])
    assert full == [49406, *added, *[cat] * 72, 49407]
    assert cut[:4] == [49406, *added] and cut[4:76] == tokenize.encode(LONG)[:72] and cut[76] == 49407


def test_it_keeps_the_protocol_of_metrics_and_says_its_protocol(model):
    check_metric(lambda: ClipScore("paper", model), wide(7), ["a", "b", "c", "a", "d", "e", "a"])
    said = ClipScore("paper", model).protocol
    assert "Lanczos to 256 x 256" in said["resize"] and "A photo depicts" in said["text"]
    assert said["score"] == "mean cosine of image and prompt, not scaled" and len(said["weights"].split()[1]) == 64


def test_a_reference_with_captions_has_its_own_score(model, tmp_path):
    folder, captions = save(wide(6, seed=3), tmp_path / "real"), [f"caption {i}" for i in range(6)]
    rows = [json.dumps({"file_name": f"{i:05}.png", "text": text}) for i, text in enumerate(captions)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    metric = ClipScore("paper", model, reference=str(folder))
    drawn = torch.randint(6, (9,), generator=clip_rng(5)).tolist()
    expected = literal(wide(6, seed=3)[drawn], [captions[i] for i in drawn], True)
    assert metric.real(9, 5)["value"] == pytest.approx(expected, abs=1e-6)
    assert metric.protocol["reference"]["images"] == 6
    Image.new("RGB", (90, 40)).save(folder / "00000.png")                         # sizes may differ
    assert ClipScore("plain", model, reference=str(folder)).real(9, 5)["value"] != metric.real(9, 5)["value"]
    assert ClipScore("paper", model).real(9, 5) == {}


def clip_rng(seed):
    from dmd2cli.core.random import Rng

    return Rng(seed, 0).generator("bootstrap", torch.device("cpu"))


def test_a_reference_without_captions_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no captions: neither metadata.jsonl nor 00000.txt is there; add them"):
        ClipScore("paper", model, reference=str(save(wide(2), tmp_path / "real")))


# -- models and weights ----------------------------------------------------------------------------------------


def test_any_file_of_the_weights_gives_the_same_model_and_its_hash(model, tmp_path):
    state = tiny_clip.network().state_dict()
    torch.save(state, tmp_path / "w.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "run.pt")
    values = []
    for name in (None, "w.pt", "run.pt"):
        metric = ClipScore("plain", model, weights=name and str(tmp_path / name))
        metric.update(wide(2), ["a", "b"])
        values.append(metric.compute()["value"])
    assert values[0] == values[1] == values[2]
    assert clip(model, str(tmp_path / "w.pt"), "cpu").sha256 == digest(tmp_path / "w.pt")


def test_a_configuration_alone_is_a_model_too(tmp_path):
    torch.save(tiny_clip.network().state_dict(), tmp_path / "w.pt")
    (tmp_path / "mine.json").write_text(json.dumps(tiny_clip.CONFIG))
    assert ClipScore("plain", str(tmp_path / "mine.json"), str(tmp_path / "w.pt")).name == "clip-score/plain-mine"


def test_published_weights_are_found_in_the_cache_of_the_hub(model, tmp_path, monkeypatch):
    """As `hf download` leaves them: a link to a file that is called by its hash."""
    import huggingface_hub.constants
    import open_clip

    snapshot = tmp_path / "models--laion--CLIP-ViT-g-14-laion2B-s12B-b42K/snapshots/abc"
    blob = tmp_path / "models--laion--CLIP-ViT-g-14-laion2B-s12B-b42K/blobs" / ("0" * 64)
    for folder in (snapshot, blob.parent, snapshot.parents[1] / "refs"):
        folder.mkdir(parents=True)
    torch.save(tiny_clip.network().state_dict(), blob)
    (snapshot / "open_clip_pytorch_model.bin").symlink_to(blob)
    (snapshot.parents[1] / "refs/main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: tiny_clip.CONFIG)
    clip.cache_clear()
    try:
        metric = ClipScore()
    finally:
        clip.cache_clear()
    assert metric.name == "clip-score/paper-ViT-g-14" and metric.clip.sha256 == "0" * 64
    assert metric.protocol["network"] == "open_clip ViT-g-14/laion2b_s12b_b42k"


def test_the_papers_model_is_open_clips_of_1366_million_parameters():
    import open_clip
    from open_clip.model import CLIP

    with torch.device("meta"):
        network = CLIP(**clip_model.asked("ViT-g-14").config)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1366.7e6, rel=1e-3)
    assert open_clip.get_pretrained_cfg("ViT-g-14", "laion2b_s12b_b42k")["hf_hub"].startswith("laion/CLIP-ViT-g-14")


BAD = {
    "missing": ({"model": "ViT-B-32/laion2b_s34b_b79k"}, "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    "no tag": ({"model": "ViT-B-32"}, "say which weights, ViT-B-32/TAG (TAG is openai, "),
    "tag": ({"model": "ViT-B-32/laion2b"}, "ViT-B-32 has no weights 'laion2b'; did you mean"),
    "name": ({"model": "ViT-g-15"}, "open_clip has no 'ViT-g-15'; did you mean 'ViT-g-14'?"),
    "json": ({"model": "gone.json"}, "gone.json: no such file"),
    "config": ({"model": "list.json"}, "list.json: not a configuration of open_clip"),
    "empty": ({"model": "empty.json"}, "embed_dim, vision_cfg and text_cfg are expected"),
    "tokens": ({"model": "words.json", "weights": "words.pt"}, "knows 700 tokens, and CLIP's tokenizer has"),
    "file": ({"model": "{model}", "weights": "gone.pt"}, "gone.pt: no such file, and nothing is downloaded here"),
    "kind": ({"model": "{model}", "weights": "w.npz"}, "w.npz: not a file of weights; expected .bin, .pt"),
    "other": ({"model": "{model}", "weights": "other.pt"}, "other.pt: not the weights of the CLIP model tiny ("),
    "cut": ({"model": "{model}", "weights": "cut.pt"}, "cut.pt: not the weights of the CLIP model tiny ("),
    "foreign": ({"model": "roberta-ViT-B-32", "weights": "cut.pt"}, "has parts of other libraries"),
    "protocol": ({"protocol": "papers"}, "clip-score: unknown protocol 'papers'; did you mean 'paper'?"),
    "batch": ({"batch": 0}, "batch must be at least 1, got 0"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_had_is_one_line(what, model, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "w.npz").touch()
    if what == "tokens":
        config = {**tiny_clip.CONFIG, "text_cfg": {**tiny_clip.CONFIG["text_cfg"], "vocab_size": 700}}
        (tmp_path / "words.json").write_text(json.dumps(config))
        torch.save(tiny_clip.network(config=config).state_dict(), tmp_path / "words.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    torch.save({"visual.proj": torch.zeros(3)}, tmp_path / "other.pt")
    options, said = BAD[what]
    with pytest.raises(UserError) as caught:
        ClipScore(**{k: v.format(model=model) if isinstance(v, str) else v for k, v in options.items()})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_papers_weights_a_person_learns_what_to_fetch_and_how(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        ClipScore()
    fetch = "hf download laion/CLIP-ViT-g-14-laion2B-s12B-b42K open_clip_pytorch_model.bin"
    for words in ("ViT-g-14/laion2b_s12b_b42k", "nothing is downloaded", "5.47 GB", fetch, "--weights FILE"):
        assert words in str(caught.value)


def test_building_a_model_leaves_the_random_state_alone(model):
    clip.cache_clear()
    state = torch.random.get_rng_state()
    ClipScore("plain", model)
    assert torch.random.get_rng_state().equal(state)


@pytest.mark.parametrize("condition", [None, 3])
def test_an_image_without_a_prompt_is_refused(model, condition):
    with pytest.raises(UserError, match=f"an image has no prompt, only {condition}; say them: --prompts FILE"):
        ClipScore("plain", model).update(wide(2), ["a cat", condition])
