"""Latents and text encoded once: made, continued, merged, read as a data set, and trained from."""

import json
import os
import shutil
import signal
import struct
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import encoders
import pytest
import torch
from encoders import CAPTIONS, SHAPE, Codec, N, Words
from PIL import Image

from dmd2cli import registry
from dmd2cli.core.random import Numbered
from dmd2cli.data.base import Loader
from dmd2cli.data.images import Images
from dmd2cli.data.latents import Latents
from dmd2cli.data.prompts import Prompts
from dmd2cli.engine.cache import Options, encoder, images, make
from dmd2cli.engine.distill import job
from dmd2cli.errors import UserError
from dmd2cli.recipe import Recipe
from dmd2cli.testing import check_dataset

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path):
    return encoders.images(tmp_path / "pictures")


@contextmanager
def registered(found):
    with (
        registry.override("teachers", "small", lambda model="a": found),
        registry.override("datasets", "latents", Latents),
        registry.override("datasets", "prompts", Prompts),
        registry.override("datasets", "images", Images),
    ):
        yield


def recipe(teacher="small", **data):
    losses = {"distribution_matching": {"guidance": 2.0}, "denoising": {}}
    losses |= {"gan_generator": {}, "gan_critic": {}} if "real" in data else {}
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "losses": losses, "sampler": "ddim"}
    return Recipe.model_validate({"teacher": teacher, **parts, "data": data, "run": {"steps": 9, "batch": 4}})


def encode(folder, source, of=None, first=0, n=None, size=4, teacher="small", **options):
    """Encode a folder of images or the lines of a text file; returns what make() says, and the teacher."""
    of = of or encoders.teacher()

    def data(found):
        return Prompts(str(source)) if source.suffix == ".txt" else images(str(source), "train", True, found)

    with registered(of):
        by = encoder(recipe(teacher), CPU, data, Options(**{"batch": 2, **options}))
        return make(by, folder, range(first, first + n if n is not None else len(by.data)), size), of


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stacked(folder):
    found = Latents(str(folder))
    examples = [found[i] for i in range(len(found))]
    return torch.stack([e.x for e in examples]), [e.condition for e in examples], [e.encoded for e in examples]


@pytest.fixture
def whole(tmp_path, pictures):
    """Ten images in three shards."""
    encode(tmp_path / "whole", pictures)
    return tmp_path / "whole"


# -- making ----------------------------------------------------------------------------------------------------


def test_an_item_is_the_latent_of_its_image_its_caption_and_that_encoded(whole, pictures):
    x, conditions, encoded = stacked(whole)
    real = Images(path=str(pictures), captions=True)
    mean = Codec().latents(torch.stack([real[i].x for i in range(N)]))
    noise = Numbered(0, range(N)).normal("posterior", torch.empty(N, *SHAPE))
    assert torch.equal(x, (mean + 0.1 * noise).half().float()) and x.dtype == torch.float32
    assert conditions == CAPTIONS
    cond, null = Words()(CAPTIONS)
    assert all(torch.equal(encoded[i]["text"], cond["text"][i].half()) for i in range(N))
    assert all(torch.equal(encoded[i]["size"], cond["size"][i]) for i in range(N)), "2049 is no half-precision number"
    found = Latents(str(whole))
    assert found.null.keys() == {"text", "size"} and torch.equal(found.null["text"], null["text"][0].half())
    assert torch.equal(found.null["size"], null["size"][0])


def test_the_answer_says_what_was_made(tmp_path, pictures):
    facts, of = encode(tmp_path / "out", pictures)
    assert facts.pop("seconds") >= 0 and facts == {"out": str(tmp_path / "out"), "n": N, "made": N, "shards": 3}
    assert list(files(tmp_path / "out")) == [*(f"encoded-{i:09d}.safetensors" for i in (0, 4, 8)), "manifest.json"]
    assert encode(tmp_path / "out", pictures, of=of)[0]["made"] == 0


def test_the_mean_of_the_posterior_is_the_same_with_any_seed(tmp_path, pictures):
    encode(tmp_path / "a", pictures, latents="mean", seed=1)
    facts, _ = encode(tmp_path / "a", pictures, latents="mean", seed=2)
    real = Images(path=str(pictures))
    assert facts["made"] == 0
    assert torch.equal(stacked(tmp_path / "a")[0][3], Codec().latents(real[3].x[None])[0].half().float())


def test_bfloat16_is_kept_as_such(tmp_path, pictures):
    encode(tmp_path / "a", pictures, latents="mean", dtype="bf16")
    found = Latents(str(tmp_path / "a"))[2]
    assert found.encoded["text"].dtype == torch.bfloat16 and found.encoded["size"].dtype == torch.float32
    assert torch.equal(found.x, Codec().latents(Images(path=str(pictures))[2].x[None])[0].bfloat16().float())


def test_without_text_conditions_stay_prompts(tmp_path, pictures):
    _, of = encode(tmp_path / "a", pictures, text=False)
    found = Latents(str(tmp_path / "a"))
    assert of.encode.encoded == [] and found.null == {}
    assert found[3].encoded is None and found[3].condition == CAPTIONS[3]


def test_prompts_alone_are_encoded_too(tmp_path):
    _, of = encode(tmp_path / "a", encoders.prompts(tmp_path / "p.txt"))
    found = Latents(str(tmp_path / "a"))
    check_dataset(found)
    assert len(found) == N and found[4].x is None and found[4].condition == CAPTIONS[4]
    assert torch.equal(found[4].encoded["text"], Words()([CAPTIONS[4]])[0]["text"][0].half())
    assert of.decode.encoded == [] and found.null.keys() == {"text", "size"}


def test_latents_that_are_there_already_get_their_text(tmp_path):
    x = torch.randn(N, *SHAPE).half()
    source = encoders.lmdb_of_latents(tmp_path / "lmdb", x, CAPTIONS)
    _, of = encode(tmp_path / "a", source)
    kept, conditions, encoded = stacked(tmp_path / "a")
    assert torch.equal(kept, x.float()) and conditions == CAPTIONS and of.decode.encoded == []
    assert torch.equal(encoded[1]["text"], Words()([CAPTIONS[1]])[0]["text"][0].half())


BAD = [(float("nan"), "is not finite; encode in float32"), (1e5, "is too large for fp16; use --dtype bf16")]


@pytest.mark.parametrize(("bad", "said"), BAD)
def test_a_latent_that_is_not_finite_is_refused_with_its_image(tmp_path, pictures, bad, said):
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(pictures / "5.png")
    of = encoders.teacher(codec=Codec(bad=bad))
    with pytest.raises(UserError, match=rf"pictures/5.png: its latent {said}"):
        encode(tmp_path / "a", pictures, of=of)
    assert list(files(tmp_path / "a")) == ["encoded-000000000.safetensors", "manifest.json"], "the first shard stays"
    if bad == 1e5:
        assert encode(tmp_path / "b", pictures, of=of, dtype="bf16")[0]["made"] == N


def test_images_of_another_size_are_refused_with_the_command_that_helps(tmp_path, pictures):
    with pytest.raises(UserError) as refused:
        encode(tmp_path / "a", pictures, of=encoders.teacher(shape=(4, 16, 16)))
    told = "pictures/0.png: becomes latents 4 x 4 x 4, the teacher's are 4 x 16 x 16; dmd2 data prepare"
    assert told in str(refused.value) and str(refused.value).endswith("--size 32")


def test_a_teacher_of_pixels_and_nothing_to_encode_are_refused(tmp_path, pictures):
    of = replace(encoders.teacher(), decode=lambda x: x)
    with pytest.raises(UserError, match="teacher small works on pixels: there are no latents to keep; give its images"):
        encode(tmp_path / "a", pictures, of=of)
    with pytest.raises(UserError, match="--no-text: of prompts nothing else is encoded"):
        encode(tmp_path / "a", encoders.prompts(tmp_path / "p.txt"), text=False)
    wrong = (({"latents": "mode"}, "--latents mode: must be one"), ({"dtype": "fp8"}, "--dtype fp8: must be one"))
    for options, said in wrong:
        with pytest.raises(UserError, match=said):
            encode(tmp_path / "a", pictures, **options)
    assert not (tmp_path / "a").exists()


def test_a_corrupt_image_stops_it_by_name(tmp_path, pictures):
    (pictures / "6.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="pictures/6.png: not a whole image"):
        encode(tmp_path / "a", pictures)


def test_classes_are_encoded_for_a_teacher_of_classes(tmp_path):
    import image_files

    path = image_files.edm_zip(tmp_path / "a.zip", image_files.values(), [2, 0, 1, 2, 0, 1])

    def one_hot(raw):
        rows = torch.nn.functional.one_hot(torch.tensor([3 if c is None else c for c in raw]), 4)[:, :3].float()
        return {"label": rows}, {"label": torch.zeros_like(rows)}

    encode(tmp_path / "a", path, of=encoders.teacher(words=one_hot, conditions=(0, 1, 2)))
    found = Latents(str(tmp_path / "a"))
    assert [found[i].condition for i in range(6)] == [2, 0, 1, 2, 0, 1]
    assert found[3].encoded["label"].tolist() == [0, 0, 1]


# -- continuing and merging ------------------------------------------------------------------------------------


def test_a_finished_shard_stays_and_a_damaged_one_is_made_again(whole, pictures, capsys):
    before = files(whole)
    os.truncate(whole / "encoded-000000004.safetensors", 300)
    facts, of = encode(whole, pictures)
    assert facts["made"] == 4 and files(whole) == before and sum(of.decode.encoded) == 4 + 1
    assert "encoded-000000004.safetensors: damaged; its encoded items are made again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of": encoders.teacher(0.6)}, "made with fingerprint = "),
        ({"teacher": {"use": "small", "model": "b"}}, "made with teacher.model = None, now it is 'b'"),
        ({"of": encoders.teacher(details={"null": "blurry"})}, "made with encoders.null = None, now it is 'blurry'"),
        ({"latents": "mean"}, "made with latents = 'posterior', now it is 'mean'"),
        ({"dtype": "bf16"}, "made with dtype = 'fp16', now it is 'bf16'"),
        ({"text": False}, "made with text = True, now it is False"),
        ({"seed": 3}, "made with seed = 0, now it is 3"),
    ],
)
def test_another_teacher_or_other_options_are_refused_in_one_line(whole, pictures, change, said):
    before = files(whole)
    with pytest.raises(UserError) as refused:
        encode(whole, pictures, **change)
    assert said in str(refused.value) and "\n" not in str(refused.value) and files(whole) == before


def test_other_data_are_refused(whole, pictures):
    (pictures / "3.txt").write_text("another caption")
    with pytest.raises(UserError, match=r"made with data.fingerprint = .*take the old value to continue, or another"):
        encode(whole, pictures)


def test_a_batch_of_another_size_makes_the_same(tmp_path, whole, pictures):
    encode(tmp_path / "a", pictures, batch=3)
    assert files(tmp_path / "a") == files(whole)


@pytest.mark.parametrize("cuts", [(0, 4, N), (0, 3, 7, N)], ids=str)
def test_slices_made_elsewhere_are_merged_without_making_anything(tmp_path, whole, pictures, cuts):
    (tmp_path / "merged").mkdir()
    for start, stop in pairwise(cuts):
        encode(tmp_path / f"{start}", pictures, first=start, n=stop - start)
        for path in (tmp_path / f"{start}").glob("*.safetensors"):
            shutil.copy(path, tmp_path / "merged")
    facts, of = encode(tmp_path / "merged", pictures)
    assert facts["made"] == 0 and of.decode.encoded == []
    mine, theirs = stacked(tmp_path / "merged"), stacked(whole)
    assert torch.equal(mine[0], theirs[0]) and mine[1] == theirs[1]
    assert all(torch.equal(a["text"], b["text"]) for a, b in zip(mine[2], theirs[2], strict=True))


@pytest.mark.parametrize(("first", "n"), [(0, N + 1), (N, 1)])
def test_items_that_are_not_there_are_refused(tmp_path, pictures, first, n):
    with pytest.raises(UserError, match=f"--first {first} -n {n}: the data have items 0 to 9; ask for some of them"):
        encode(tmp_path / "a", pictures, first=first, n=n)


def test_ctrl_c_keeps_what_was_made_and_the_same_command_continues(tmp_path, whole, pictures, capsys):
    class Stopping(Words):
        def __call__(self, raw):
            if CAPTIONS[4] in raw:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(raw)

    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "a", pictures, of=encoders.teacher(words=Stopping()))
    assert "of 10 encoded items are there; the same command continues" in capsys.readouterr().err
    with pytest.raises(UserError, match="of 10 encoded items are there; run dmd2 data cache again to finish"):
        Latents(str(tmp_path / "a"))
    encode(tmp_path / "a", pictures)
    assert torch.equal(stacked(tmp_path / "a")[0], stacked(whole)[0])


# -- reading ---------------------------------------------------------------------------------------------------


def test_the_data_set_keeps_its_protocol(whole):
    found = Latents(str(whole))
    check_dataset(found, encoders.teacher())
    assert [found.condition(i) for i in range(N)] == CAPTIONS
    assert [Latents(str(whole), limit=3)[i].condition for i in range(3)] == [CAPTIONS[i] for i in (0, 3, 6)]
    for i in (-1, N):
        with pytest.raises(IndexError):
            found[i]
    with pytest.raises(UserError, match="limit must be at least 1"):
        Latents(str(whole), limit=0)


def test_a_folder_that_is_something_else_or_unfinished_says_how_to_make_it(tmp_path, whole, pictures):
    with pytest.raises(UserError, match=r"holds no encoded items \(no manifest.json\); make some with dmd2 data cache"):
        Latents(str(pictures))
    with pytest.raises(UserError, match="no such folder of encoded items; make it with dmd2 data cache RECIPE --data"):
        Latents(str(tmp_path / "no"))
    (whole / "encoded-000000008.safetensors").unlink()
    with pytest.raises(UserError, match="8 of 10 encoded items are there; run dmd2 data cache again to finish"):
        Latents(str(whole))


def test_a_cache_of_another_teacher_is_refused_with_both_values(whole):
    found = Latents(str(whole))
    found.check_teacher(encoders.teacher())
    for other, said in (
        (encoders.teacher(0.6), "encoded by another teacher (small): fingerprint "),
        (encoders.teacher(shape=(4, 8, 8)), "latents are 4 x 4 x 4, and the teacher's are 4 x 8 x 8"),
        (encoders.teacher(details={"null": "blurry"}), "by another teacher (small): encoders.null None, here blurry"),
    ):
        with pytest.raises(UserError) as refused:
            found.check_teacher(other)
        assert said in str(refused.value) and "\n" not in str(refused.value)


# -- the official LMDB -----------------------------------------------------------------------------------------


def test_the_official_lmdb_is_read_as_it_is(tmp_path):
    x = torch.randn(5, 4, 4, 4)
    found = Latents(str(encoders.lmdb_of_latents(tmp_path / "lmdb", x, CAPTIONS[:5])))
    check_dataset(found, encoders.teacher())
    assert len(found) == 5 and torch.equal(found[2].x, x[2].half().float()) and found[2].encoded is None
    assert [found.condition(i) for i in range(5)] == [found[i].condition for i in range(5)] == CAPTIONS[:5]
    assert Latents(str(encoders.lmdb_of_latents(tmp_path / "plain", x)))[1].condition is None
    found.check_teacher(encoders.teacher())
    with pytest.raises(UserError, match="latents are 4 x 4 x 4, and the teacher's are 4 x 8 x 8"):
        found.check_teacher(encoders.teacher(shape=(4, 8, 8)))


def test_an_lmdb_of_something_else_is_refused_and_bad_rows_are_stood_in_for(tmp_path, capsys):
    import image_files

    path = str(image_files.lmdb_folder(tmp_path / "images", image_files.values()))
    with pytest.raises(UserError, match=r"latents_shape is not there; expected count, channels, height, width"):
        Latents(path)
    x = torch.randn(5, 4, 4, 4)
    x[1, 0, 0, 0] = float("nan")
    found = Latents(str(encoders.lmdb_of_latents(tmp_path / "lmdb", x, CAPTIONS[:5])))
    drawn = Loader(0, 5, 5, CPU, None, found).reals(0, slice(0, 5))[0]
    assert drawn.isfinite().all()
    assert "lmdb/latents_1_data: corrupt (its values are not finite)" in capsys.readouterr().err


# -- training from it ------------------------------------------------------------------------------------------


def batches(of, prompts, real=None, of_real=False):
    with registered(of):
        return Loader(0, 4, 4, CPU, prompts, real, None, of_real)(3, of)


def test_batches_have_the_stored_conditions_and_ask_no_encoder(whole, pictures):
    stored, plain = Latents(str(whole)), Images(path=str(pictures), captions=True)
    asked, unasked = encoders.teacher(), encoders.teacher()
    for of_real in (False, True):
        (mine,), (theirs,) = batches(unasked, stored, stored, of_real), batches(asked, plain, plain, of_real)
        assert mine.raw == theirs.raw and mine.rows == theirs.rows
        for a, b in ((mine.cond, theirs.cond), (mine.null, theirs.null), (mine.real_cond, theirs.real_cond)):
            assert a.keys() == b.keys() and all(a[k].dtype == torch.float32 for k in a)
            assert all(torch.equal(a[k], b[k].half().float() if k == "text" else b[k]) for k in a)
    assert unasked.encode.encoded == [] and asked.encode.encoded != []


def test_prompts_of_a_cache_go_with_images_that_are_not(tmp_path, whole):
    encode(tmp_path / "p", encoders.prompts(tmp_path / "p.txt"))
    of, lmdb = encoders.teacher(), encoders.lmdb_of_latents(tmp_path / "l", torch.randn(6, *SHAPE), CAPTIONS[:6])
    (found,) = batches(of, Latents(str(tmp_path / "p")), Latents(str(lmdb)))
    assert found.cond["text"].shape == (4, 5, 20) and found.real_cond["text"].shape == (4, 5, 20)
    assert [len(raw) for raw in of.encode.encoded] == [4], "the real captions alone"


def test_a_run_on_encoded_data_is_that_on_the_images(whole, pictures):
    both = {"use": "latents", "path": str(whole)}
    of = encoders.teacher()
    with registered(of):
        ready = job(recipe(real=both, prompts=both), CPU)
        before = [list(of.decode.encoded), len(of.encode.encoded)]
        found = ready.step(0)
    assert all(value.isfinite() for value in found.values()) and found["critic/gan_critic"] > 0
    assert [of.decode.encoded, len(of.encode.encoded)] == before, "a step asks neither VAE nor text encoder"


def test_a_run_on_images_encodes_a_sample_of_the_posterior_at_every_step(pictures, capsys):
    raw, of = {"use": "images", "path": str(pictures), "captions": True}, encoders.teacher()
    with registered(of):
        ready = job(recipe(real=raw), CPU)
        assert "images are encoded at every step; `dmd2 data cache` does that once" in capsys.readouterr().err
        (batch,), (again,), (other,) = (ready.loader(step, of) for step in (0, 0, 1))
        assert ready.step(0)["critic/gan_critic"].isfinite()
    example = [i for i in range(encoders.N) if ready.loader.real[i].condition == batch_caption(ready, 0)]
    mean = of.decode.latents(ready.loader.real[example[0]].x[None])
    assert batch.x.equal(again.x) and batch.x.shape[1:] == of.shape and batch.x.dtype == torch.float32
    assert 0.03 < (batch.x[:1] - mean).std() < 0.3, "a sample, and not the mean"
    assert not (batch.x[:1] - mean).equal(other.x[:1] - mean)


def test_previews_are_of_the_prompts_and_use_what_is_encoded(tmp_path, whole):
    texts, seen = {"use": "prompts", "texts": CAPTIONS[:3]}, []
    for prompts in (texts, {"use": "latents", "path": str(whole)}):
        of = encoders.teacher()
        with registered(of):
            ready = job(recipe(prompts=prompts), CPU)
            of.encode.encoded.clear()
            ready.preview(tmp_path / "one.png")
            seen.append([c for batch in of.encode.encoded for c in batch])
    assert seen == [[CAPTIONS[i % 3] for i in range(32)], []]
    assert Image.open(tmp_path / "one.png").size[0] > 8 * encoders.SIDE


def batch_caption(ready, row):
    """The caption of a row of the real batch of step 0."""
    return ready.loader.reals(0, slice(0, ready.recipe.run.batch))[1][row]


def test_a_run_refuses_another_teacher_another_size_and_prompts_as_images(tmp_path, whole, pictures):
    both = {"use": "latents", "path": str(whole)}
    with registered(encoders.teacher(0.6)), pytest.raises(UserError, match=r"data.real: .*encoded by another teacher"):
        job(recipe(real=both), CPU)
    with registered(encoders.teacher(shape=(4, 8, 8))), pytest.raises(UserError, match=r"data.prompts: .*4 x 4 x 4, "):
        job(recipe(prompts=both), CPU)
    raw = {"use": "images", "path": str(pictures), "captions": True}
    said = r"data.real: images become latents \(4, 4, 4\), and the teacher's are \(4, 8, 8\); resize"
    with registered(encoders.teacher(shape=(4, 8, 8))), pytest.raises(UserError, match=said):
        job(recipe(real=raw), CPU)
    encode(tmp_path / "p", encoders.prompts(tmp_path / "p.txt"))
    with registered(encoders.teacher()), pytest.raises(UserError, match="data.real: has conditions alone, and real"):
        job(recipe(real={"use": "latents", "path": str(tmp_path / "p")}), CPU)


def test_a_shard_says_what_it_is(whole):
    raw = (whole / "encoded-000000004.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["dmd2_cache"])
    assert header["first"] == 4 and header["conditions"] == CAPTIONS[4:8] and header["contract"]["data"]["n"] == N
    assert header["contract"]["teacher"] == {"use": "small"} and header["contract"]["latents"] == "posterior"
