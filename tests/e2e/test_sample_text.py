"""dmd2 sample of images from text: every option does what it says, and pictures can be drawn again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import tiny_pipelines as tiny
import tiny_students

from dmd2cli.cli.ordering import precisely
from dmd2cli.core.random import Numbered
from dmd2cli.errors import UserError
from dmd2cli.samplers.few_step import few_step
from dmd2cli.student import load_student, save_student

RECIPE = """\
teacher: {{use: sdxl, model: {}}}
student: {{lr: 1.0e-3}}
critic: {{lr: 1.0e-3}}
losses: {{distribution_matching: {{}}, denoising: {{}}}}
sampler: {{use: ddim, steps: 3}}
run: {{steps: 1, batch: 4}}
"""
STUDENTS = {
    "sd15": ("sd15", {}),
    "sdxl": ("sdxl", {}),
    "late": ("sdxl", {"times": tiny_students.ONE}),
    "lora": ("sdxl", {"rank": 4}),
    "range": ("sd15", {"reads_scale": True}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two pipelines, a small decoder, a recipe and students, by the names of STUDENTS."""
    folder = tmp_path_factory.mktemp("text")
    for name in ("sd15", "sdxl"):
        getattr(tiny, name)(folder / f"{name}-pipe")
    tiny.tiny_vae(folder / "taesd")
    (folder / "r.yaml").write_text(RECIPE.format(folder / "sdxl-pipe"))
    for name, (use, options) in STUDENTS.items():
        found = tiny_students.student(str(folder / f"{use}-pipe"), use, **options)
        save_student(folder / name / "student", found.source.network, found.contract)
    return folder


@pytest.fixture
def draw(made, dmd2, tmp_path, monkeypatch):
    """Name of a student, options -> the picture, and what was said on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name, *args, out="x.png"):
        ref = () if name is None else ("--student", made / name)
        done = dmd2("sample", *ref, "-o", out, *args)
        assert done.code == 0, done.err
        return read(out) if out.endswith(".png") else None, done.err

    return run


@pytest.fixture
def refused(made, dmd2, tmp_path, monkeypatch):
    """The line with which a command is refused, before a picture is written."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        done = dmd2("sample", "-o", "no.png", *args)
        assert done.code == 2 and done.out == "" and not (tmp_path / "no.png").exists()
        (line,) = done.err.splitlines()
        return line.removeprefix("dmd2: error: ")

    return run


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def said(path):
    """What a PNG says of itself."""
    return json.loads(Image.open(path).info["dmd2"])["drawn"]


def expected(made, name, prompt, seed=0, number=0, size=(8, 8), times=None):
    """An image by hand: text, noise, calls, VAE."""
    source = load_student(made / name).source
    rng = Numbered(seed, [number])
    cond = source.teacher.encode([prompt])[0]
    times = times or source.sampler.times
    with torch.no_grad():
        noise = rng.normal("noise", torch.empty(1, 4, *size))
        call = lambda x, t: source.network(x, t, cond)  # noqa: E731
        x, _ = few_step(call, source.teacher.schedule, noise, times, rng)
        return source.teacher.decode(x)[0].permute(1, 2, 0).numpy().astype(int)


def near(a, b, most=1):
    """Equal but for the rounding of pixels that lie between two values."""
    assert a.shape == b.shape
    return abs(a - b).max() <= most


# -- one picture, several, and their prompts ---------------------------------------------------------------------


def test_one_image_is_a_plain_picture_and_several_are_a_sheet(made, draw):
    image, err = draw("sdxl", "a llama")
    assert err == "" and image.shape == (16, 16, 3) and near(image, expected(made, "sdxl", "a llama"))
    assert draw("sdxl", "a llama", "--grid")[0].shape[0] > 48
    assert draw("sdxl", "a llama", "a cat")[0].shape[0] > 48


def test_prompts_of_a_file_are_taken_in_turn(made, draw, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "a cat", "no": 1}\n{"text": "red cat", "no": 2}\n')
    draw("sdxl", "--prompts", "p.jsonl", "--column", "text", out="two")
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["000000.png", "000001.png"]
    draw("sdxl", "--prompts", "p.jsonl", "-n", "3", out="three")
    for i, prompt in enumerate(("a cat", "red cat", "a cat")):
        assert said(f"three/{i:06d}.png")["prompt"] == prompt
        assert near(read(f"three/{i:06d}.png"), expected(made, "sdxl", prompt, number=i))


def test_each_image_may_have_a_seed_of_its_own(made, draw):
    draw("sdxl", "a llama", "a cat", "--seeds", "1,5,9", "-n", "6", out="many")
    for i, (prompt, seed) in enumerate(zip(["a llama", "a cat"] * 3, [1, 5, 9] * 2, strict=True)):
        alone, _ = draw("sdxl", prompt, "--seed", seed, "-n", "1")
        assert near(read(f"many/{i:06d}.png"), alone)
        assert (said(f"many/{i:06d}.png")["seed"], said(f"many/{i:06d}.png")["number"]) == (seed, 0)
    assert json.loads(Image.open("many/000001.png").info["dmd2"])["made"]["seeds"] == 5


def test_other_seeds_do_not_continue_a_folder(made, draw, dmd2):
    draw("sdxl", "a llama", "--seeds", "1,5", out="many")
    done = dmd2("sample", "a llama", "--student", made / "sdxl", "--seeds", "1,6", "-o", "many")
    assert done.code == 2 and "made with seeds = 5, now it is 6" in done.err


def test_the_default_batch_goes_by_pixels_and_prompts_are_encoded_once(made):
    source = load_student(made / "sd15").source
    assert source.factor == 2 and source.batch == 250
    batches = [replace(source, teacher=source.teacher.resized(source.teacher, s, s)).batch for s in (512, 1024, 4096)]
    assert batches == [16, 4, 1]
    seen = []
    source.teacher.encode.text.get().register_forward_hook(lambda module, args, out: seen.extend(args[0]))
    source.images(["a cat", "a llama", "a cat", "a cat"], 0)
    assert sorted(seen) == ["", "a cat", "a llama"]


def test_an_image_does_not_depend_on_the_prompts_drawn_with_it(made):
    source = load_student(made / "sdxl").source
    one, other = (source.latents(["a cat", second], 0, [3, 4])[0] for second in ("a llama", "red"))
    assert one.equal(other)


# -- drawing again -----------------------------------------------------------------------------------------------


def test_a_picture_says_how_it_was_drawn_and_is_drawn_again(made, draw):
    first, _ = draw("sdxl", "a llama", "--seed", "3", out="a.png")
    found = said("a.png")
    wanted = {"prompt": "a llama", "seed": 3, "number": 0, "student": str(made / "sdxl"), "size": [16, 16]}
    assert wanted.items() <= found.items()
    assert found["times"] == [1.0, 0.75, 0.5, 0.25] and found["timesteps"] == [999, 749, 499, 249]
    second, err = draw(None, "--from", "a.png", out="b.png")
    assert (first == second).all() and err == "" and said("b.png") == found
    other, _ = draw(None, "--from", "a.png", "--seed", "4")
    assert near(other, expected(made, "sdxl", "a llama", seed=4))
    other, _ = draw(None, "--from", "a.png", "a cat")
    assert near(other, expected(made, "sdxl", "a cat", seed=3))
    other, _ = draw("sd15", "--from", "a.png")
    assert near(other, expected(made, "sd15", "a llama", seed=3))


OPTIONS = [
    ("sdxl", ["--size", "8x32", "--tiny-vae", "{}/taesd", "--dtype", "bf16"]),
    ("lora", ["--lora-weight", "0.5", "--steps", "2", "--vae-dtype", "bf16"]),
    ("range", ["--guidance", "3.5", "--tile-above", "8", "--vae", "{}/sdxl-pipe"]),
    (None, ["--teacher", "{}/r.yaml", "--guidance", "3", "--negative", "red", "--sampler", "dpmpp", "--steps", "4"]),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=["sdxl", "lora", "range", "teacher"])
def test_every_option_is_remembered(made, draw, name, options):
    options = [option.format(made) for option in options]
    draw(name, "a llama", "a cat", "red cat", *options, "--seed", "2", "--batch", "2", out="set")
    for i in range(3):
        assert (draw(None, "--from", f"set/{i:06d}.png")[0] == read(f"set/{i:06d}.png")).all()
    sheet, _ = draw(name, "a llama", "a cat", "red cat", *options, "--seeds", "2,7", out="sheet.png")
    assert (draw(None, "--from", "sheet.png")[0] == sheet).all()
    plain = [] if name else options[:2]
    other, _ = draw(name, "a llama", *plain, "--seed", "2")
    assert other.shape != read("set/000000.png").shape or not near(other, read("set/000000.png"), 0)


def test_other_weights_than_then_are_told(made, draw, tmp_path):
    shutil.copytree(made / "sdxl", tmp_path / "mine")
    draw(None, "a llama", "--student", "mine", out="a.png")
    assert said("a.png")["student"] == "mine"
    shutil.copytree(made / "late", tmp_path / "mine", dirs_exist_ok=True)
    other = tiny_students.student(str(made / "sdxl-pipe"), "sdxl")
    tiny_students.stirred(other.source.network, 0.1, seed=8)
    save_student(tmp_path / "mine" / "student", other.source.network, other.contract)
    assert draw(None, "--from", "a.png")[1] == "warning: mine has other weights now than when a.png was drawn\n"


def test_a_lora_is_told_from_another_of_the_same_base(made, draw, tmp_path):
    shutil.copytree(made / "lora", tmp_path / "mine")
    draw(None, "a llama", "--student", "mine", out="a.png")
    other = load_student(made / "lora")
    tiny_students.stirred(other.source.network, 0.1, seed=8)
    save_student(tmp_path / "mine" / "student", other.source.network, other.contract)
    assert "mine has other weights now" in draw(None, "--from", "a.png")[1]


def test_a_picture_without_its_story_is_refused(made, draw, refused, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert refused("--from", "plain.png").startswith("--from plain.png: does not say how it was drawn")
    assert refused("--from", "none.png").startswith("--from none.png: no such file")
    draw("sdxl", "a llama", out="a.png")
    from dmd2cli.images import save_png

    for story in ("{", "[]", "{}", '{"drawn": {"student": 3, "seed": 0}}', '{"drawn": {"seed": 0}}',
                  '{"drawn": {"student": "a", "seed": 0, "row": [0, 1000000000]}}',
                  '{"drawn": {"student": "a", "seed": 0, "options": {"stepz": 3}}}'):  # fmt: skip
        save_png(Image.new("RGB", (4, 4)), tmp_path / "bad.png", story)
        assert "cannot be read; draw it anew" in refused("--from", "bad.png")
    shutil.copy("a.png", "moved.png")
    assert refused("--from", "moved.png", "--student", "nowhere").startswith("nowhere: no such run folder")


# -- size, VAE, precision ----------------------------------------------------------------------------------------


def test_another_size_is_height_by_width_and_is_told(made, draw):
    image, err = draw("sd15", "a llama", "--size", "8x32")
    assert image.shape == (8, 32, 3) and err == "warning: 8 x 32 pixels, and trained were 16 x 16\n"
    assert near(image, expected(made, "sd15", "a llama", size=(4, 16)))
    assert draw("sd15", "a llama", "--size", "16")[1] == ""


def test_the_decoder_may_be_another(made, draw, tmp_path):
    full = draw("sdxl", "a llama")[0]
    small = draw("sdxl", "a llama", "--tiny-vae", made / "taesd")[0]
    x = load_student(made / "sdxl").source.latents(["a llama"], 0, [0])
    from diffusers import AutoencoderTiny

    with torch.no_grad():
        pixels = AutoencoderTiny.from_pretrained(made / "taesd").decode(x, return_dict=False)[0][0]
    assert near(small, ((pixels + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy().astype(int))
    assert not near(small, full, 3)
    torch.manual_seed(5)
    tiny.vae().save_pretrained(tmp_path / "vae")
    assert not near(draw("sdxl", "a llama", "--vae", tmp_path / "vae")[0], full, 3)


def test_the_small_decoder_that_a_teacher_names_is_used_when_asked(made, draw):
    student = tiny_students.student(str(made / "sdxl-pipe"), "sdxl", tiny=str(made / "taesd"))
    save_student(made / "named" / "student", student.source.network, student.contract)
    wanted = draw("sdxl", "a llama", "--tiny-vae", made / "taesd")[0]
    assert (draw("named", "a llama", "--tiny-vae", "auto")[0] == wanted).all()
    assert (draw("named", "a llama")[0] == draw("sdxl", "a llama")[0]).all()


def test_a_vae_that_overflows_in_fp16_draws_a_finite_picture_and_says_so_once(made, draw, tmp_path):
    torch.manual_seed(0)
    loud = tiny.vae()
    loud.decoder.conv_in.weight.data *= 1e6                   # infinite in float16, and normalised away in float32
    loud.save_pretrained(tmp_path / "loud")
    wanted, _ = draw("sdxl", "a llama", "--vae", "loud")
    _, err = draw("sdxl", "a llama", "a cat", "--vae", "loud", "--vae-dtype", "fp16", out="two")
    assert err.count("the VAE overflows in float16: in float32 from here on") == 1
    assert near(read("two/000000.png"), wanted, 3) and wanted.std() > 3


def test_what_is_not_finite_is_told(made, draw, tmp_path):
    broken = tiny.vae()
    broken.decoder.conv_in.weight.data[0] = torch.nan
    broken.save_pretrained(tmp_path / "broken")
    assert draw("sdxl", "a llama", "--vae", "broken")[1].startswith("warning: the VAE gives values that are not finite")
    student = load_student(made / "sdxl")
    student.source.network.backbone.unet.conv_out.bias.data[:] = torch.nan
    save_student(tmp_path / "nan" / "student", student.source.network, student.contract)
    assert draw(None, "a llama", "a cat", "--student", "nan")[1] == (
        "warning: image 0: the network gave values that are not finite; its picture means nothing\n"
    )


def test_tiles_are_used_above_a_side(made, draw, monkeypatch):
    from diffusers import AutoencoderKL

    used, tiled = [], AutoencoderKL.tiled_decode
    monkeypatch.setattr(AutoencoderKL, "tiled_decode", lambda *a, **k: (used.append(1), tiled(*a, **k))[1])
    draw("sdxl", "a llama", "--size", "16x32")
    assert not used
    draw("sdxl", "a llama", "--size", "16x32", "--tile-above", "16")
    assert used


@pytest.mark.parametrize("name", ["sd15", "sdxl", "lora"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_networks_compute_in_half_precision_near_float32(made, draw, name, dtype):
    from dmd2cli import inference

    exact = load_student(made / name).source
    x = exact.latents(["a llama"], 0, [0])
    half = inference.at_dtype(load_student(made / name).source, dtype)
    base = half.network.adapters.base if name == "lora" else half.network
    assert {p.dtype for p in base.parameters()} == {inference.DTYPES[dtype]}
    found = half.latents(["a llama"], 0, [0])
    assert found.dtype == torch.float32 and 0 < (found - x).norm() < 0.1 * x.norm()
    assert near(draw(name, "a llama", "--dtype", dtype)[0], draw(name, "a llama")[0], 40)
    assert (draw(name, "a llama", "--dtype", "fp32")[0] == draw(name, "a llama")[0]).all()


def test_a_network_that_does_not_cast_computes_under_autocast(dmd2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dtype in ("fp32", "bf16", "fp16"):
        done = dmd2("sample", "--teacher", "digits", "--steps", "4", "-n", "1", "--dtype", dtype, "-o", f"{dtype}.png")
        assert done.code == 0, done.err
    assert near(read("bf16.png"), read("fp32.png"), 40) and not near(read("bf16.png"), read("fp32.png"), 0)


def test_what_a_device_cannot_compute_is_one_line():
    said = '--dtype fp16: this device cannot .*"conv" not implemented for.*use bf16'
    with pytest.raises(UserError, match=said), precisely("fp16"):
        raise RuntimeError("\"conv\" not implemented for 'Half'\nstack")
    with pytest.raises(RuntimeError), precisely(None):
        raise RuntimeError("\"conv\" not implemented for 'Half'")


def test_no_float64_is_made_where_there_is_none(made, monkeypatch):
    """As on Apple's MPS, whose tensors cannot be float64; the table of timesteps alone is, on the CPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from dmd2cli.core import noise
    from dmd2cli.samplers import ode

    class Without(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            assert not (isinstance(out, torch.Tensor) and out.dtype == torch.float64), func
            return out

    for module in (noise, ode):
        monkeypatch.setattr(module, "exact", lambda t: t.float())
    for name in ("sd15", "range", "lora"):
        source = load_student(made / name).source
        with Without():
            source.images(["a llama", "a cat"], 0)


# -- LoRA, images, teachers --------------------------------------------------------------------------------------


def test_the_weight_of_a_lora_goes_from_its_base_to_what_was_trained_and_beyond(made, draw):
    trained = draw("lora", "a llama")[0]
    assert (draw("lora", "a llama", "--lora-weight", "1")[0] == trained).all()
    student = load_student(made / "lora").at_lora_weight(0.0)
    teacher = load_student(made / "lora").source.teacher
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 0.5])
    cond = teacher.encode(["a", "b"])[0]
    assert student.source.network(x, t, cond).allclose(teacher.denoiser(x, t, cond), atol=1e-6)
    images = [draw("lora", "a llama", "--lora-weight", w)[0] for w in ("0", "0.5", "1.5")]
    assert all(not near(image, trained, 0) for image in images)


def test_drawing_over_an_image_starts_at_the_first_time_that_is_not_above_the_strength(made, draw, tmp_path):
    gradient = np.linspace(0, 255, 40 * 20 * 3).reshape(20, 40, 3).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "in.png")
    image, err = draw("sd15", "a llama", "--init-image", "in.png", "--strength", "0.6", out="a.png")
    assert err == "--strength 0.6: from t = 0.5 on, 2 network calls\n"
    source = load_student(made / "sd15").source
    fitted = Image.fromarray(gradient).crop((10, 0, 30, 20)).resize((16, 16), Image.Resampling.LANCZOS)
    pixels = torch.tensor(np.array(fitted)).permute(2, 0, 1)[None] / 127.5 - 1
    x, rng = source.teacher.decode.latents(pixels), Numbered(0, [0])
    cond, schedule = source.teacher.encode(["a llama"])[0], source.teacher.schedule
    half, quarter = (torch.tensor([t]) for t in (0.5, 0.25))
    a, s = (c.float() for c in schedule(half))
    b, r = (c.float() for c in schedule(quarter))
    with torch.no_grad():
        x = source.network(a * x + s * rng.normal("noise", x), half, cond)
        x = source.network(b * x + r * rng.normal("renoise/1", x), quarter, cond)
        wanted = source.teacher.decode(x)[0].permute(1, 2, 0).numpy().astype(int)
    assert near(image, wanted) and said("a.png")["times"] == [0.5, 0.25]
    assert (draw(None, "--from", "a.png")[0] == image).all()
    Image.fromarray(255 - gradient).save(tmp_path / "in.png")
    assert "in.png is another image now than when a.png was drawn" in draw(None, "--from", "a.png")[1]


def test_full_strength_is_pure_noise_and_says_so(made, draw, tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "in.png")
    image, err = draw("sd15", "a llama", "--init-image", "in.png", "--strength", "1")
    assert err == "warning: --strength 1: starts from pure noise; nothing of the image is left\n"
    assert (image == draw("sd15", "a llama")[0]).all()


@pytest.mark.parametrize(
    ("steps", "times"), [(1, (1.0,)), (2, (1.0, 0.5)), (8, tuple(1 - k / 8 for k in range(8)))]
)
def test_another_number_of_steps_has_sensible_timesteps(made, draw, steps, times):
    image, err = draw("sdxl", "a llama", "--steps", steps, out="a.png")
    assert err == f"warning: a 4-step student, drawn in {steps} with respaced times\n"
    assert said("a.png")["timesteps"] == [round(1000 * t) - 1 for t in times]
    assert near(image, expected(made, "sdxl", "a llama", times=times))


def test_a_student_of_one_late_time_keeps_it_and_is_respaced_below_it(made, draw):
    draw("late", "a llama", out="a.png")
    assert said("a.png")["timesteps"] == [399]
    draw("late", "a llama", "--steps", "4", out="a.png")
    assert said("a.png")["timesteps"] == [399, 299, 199, 99]


def test_a_teacher_draws_with_any_sampler(made, dmd2, draw):
    teacher = ("--teacher", made / "r.yaml")
    for name, calls in (("dpmpp:steps=4", 4), ("pndm:steps=4", 5), ("heun", 3)):
        more = ("--steps", "2") if name == "heun" else ()
        done = dmd2("sample", "a llama", *teacher, "--sampler", name, *more, "-o", "t.png")
        assert done.code == 0 and f", {calls} network calls each" in done.out, done.err
    weak, strong = (draw(None, "a llama", *teacher, "--guidance", g)[0] for g in ("2", "4"))
    assert not near(weak, strong, 0)
    assert not near(draw(None, "a llama", *teacher, "--guidance", "4", "--negative", "red")[0], strong, 0)


# -- refusals ----------------------------------------------------------------------------------------------------


BAD = [
    ("sdxl", [], "no prompts: these images are drawn from text; give some"),
    ("sdxl", ["--prompts", "{}/empty.txt"], "{}/empty.txt: no prompts in it"),
    ("sdxl", ["--prompts", "nope.txt"], "nope.txt: no such file"),
    ("sdxl", ["a", "--prompts", "{}/r.txt"], "prompts come from the command line or from --prompts FILE"),
    ("sdxl", ["a", "--column", "x"], "--column: belongs to --prompts FILE"),
    ("sdxl", ["a", "--guidance", "3"], "--guidance 3: this student has guidance 8 baked in"),
    ("range", ["a", "--guidance", "9"], "--guidance 9: this student was trained for scales from 1 to 8"),
    ("sdxl", ["a", "--negative", "b"], "--negative: this student makes one pass a call, without a null condition"),
    ("sdxl", ["a", "--size", "15"], "--size 15: 15 x 15 pixels; sides must be multiples of 2"),
    ("sdxl", ["a", "--size", "0"], "--size 0: 0 x 0 pixels; sides must be multiples of 2"),
    ("sdxl", ["a", "--size", "8x8x8"], "--size 8x8x8: expected pixels: 1024, or HEIGHTxWIDTH"),
    ("sdxl", ["a", "--seeds", "1,x"], "--seeds 1,x: seeds are whole numbers"),
    ("sdxl", ["a", "--seeds", "1,2", "-n", "3"], "--seeds: 2 of them make 2 different images here, not 3"),
    ("sdxl", ["a", "--seeds", "1", "--seed", "1"], "--seed and --seeds exclude each other"),
    ("sdxl", ["a", "--vae", "./none"], "--vae: ./none: no such file or folder"),
    ("sdxl", ["a", "--vae", "{}/taesd"], "--vae: {}/taesd is of the class AutoencoderTiny; name a full VAE"),
    ("sdxl", ["a", "--vae", "{}/wide"], "--vae: {}/wide has latents of 16 channels, and this model's have 4"),
    ("sdxl", ["a", "--tiny-vae", "{}/sd15-pipe"], "--tiny-vae: {}/sd15-pipe is of the class AutoencoderKL; name"),
    ("sdxl", ["a", "--tiny-vae", "auto"], "--tiny-vae auto: this teacher names no small decoder"),
    ("sdxl", ["a", "--vae-dtype", "fp8"], "--vae-dtype fp8: expected fp32, bf16 or fp16"),
    ("sdxl", ["a", "--dtype", "fp8"], "--dtype: fp8 is not one of fp32, bf16, fp16"),
    ("sdxl", ["a", "--lora-weight", "0.5"], "--lora-weight: this student is no LoRA"),
    ("sdxl", ["a", "--sampler", "heun"], "--sampler: is for teachers"),
    ("sdxl", ["a", "--strength", "0.5"], "--strength: belongs to --init-image FILE"),
    ("sdxl", ["a", "--init-image", "{}/r.yaml"], "{}/r.yaml: not a picture that can be read"),
    ("sdxl", ["a", "--init-image", "{}/p.png", "--strength", "0.1"], "--strength 0.1: below all times of this student"),
    ("sdxl", ["a", "--init-image", "{}/p.png", "--strength", "0"], "--strength 0: expected a number above 0"),
    ("late", ["a", "--init-image", "{}/p.png"], "--init-image: this student makes one call, from pure noise"),
    ("late", ["a", "--steps", "3"], "0.266667 is between two of the 1000 timesteps of this teacher's table; evenly"),
    (None, ["a", "--teacher", "{}/r.yaml", "--negative", "b"], "--negative b: has no effect at guidance 1"),
    (None, ["a", "--teacher", "{}/r.yaml", "--lora-weight", "1"], "--lora-weight: is for students"),
    (None, ["a", "--teacher", "{}/r.yaml", "--init-image", "{}/p.png"], "--init-image: is for students"),
    (None, ["a", "--teacher", "{}/r.yaml", "--sampler", "dpm++"], "--sampler dpm++: expected NAME or NAME:key=value"),
    (None, ["a", "--teacher", "{}/r.yaml", "--sampler", "heum"], "override 'sampler={{use: heum}}': sampler: unknown"),
    (None, ["--teacher", "digits", "--size", "16"], "--size 16: this teacher's images have one size, 8 x 8"),
    (None, ["--teacher", "digits", "--vae", "x"], "--vae: the teacher digits has no option vae"),
    (None, ["--teacher", "digits", "--tiny-vae", "auto"], "--tiny-vae auto: this teacher has no decoders to choose"),
    (None, ["--teacher", "digits", "--guidance", "2", "--negative", "x"], "--negative x: this teacher reads no"),
]


@pytest.mark.parametrize(("name", "options", "line"), BAD, ids=[" ".join(case[1]) for case in BAD])
def test_a_bad_wish_is_one_line(made, refused, name, options, line):
    (made / "empty.txt").write_text(" \n\n")
    (made / "r.txt").write_text("red\n")
    Image.new("RGB", (4, 4)).save(made / "p.png")
    if not (made / "wide").exists():
        tiny.vae(16).save_pretrained(made / "wide")
    ref = () if name is None else ("--student", made / name)
    assert refused(*(option.format(made) for option in options), *ref).startswith(line.format(made))
