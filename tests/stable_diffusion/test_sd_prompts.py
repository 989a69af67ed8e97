"""Prompts are encoded as the pipelines of diffusers encode them, and null conditions are those of the papers."""

import pytest
import torch

from dmd2cli.errors import UserError

PROMPTS = ["A handwritten three", "a llama wearing sunglasses, photo", ""]
LONG = " ".join(["red cat"] * 60)
close = torch.testing.assert_close


def literal(pipe, name, **more):
    """(conditions, null conditions) by the pipeline's own encode_prompt."""
    with torch.no_grad():
        if name.startswith("sd15"):
            text, null = pipe.encode_prompt(PROMPTS, "cpu", 1, True, **more)
            return {"text": text}, {"text": null}
        if name == "pixart":
            text, mask, null, null_mask = pipe.encode_prompt(PROMPTS, max_sequence_length=9, **more)
            return {"text": text, "mask": mask.float()}, {"text": null, "mask": null_mask.float()}
        if name == "flux":
            text, pooled, _ = pipe.encode_prompt(PROMPTS, None, max_sequence_length=9)
            null, null_pooled, _ = pipe.encode_prompt([""] * 3, None, max_sequence_length=9)
        else:
            extra = {"prompt_3": None, "max_sequence_length": 9} if name.startswith("sd3") else {}
            text, null, pooled, null_pooled = pipe.encode_prompt(PROMPTS, prompt_2=None, **extra, **more)
    return {"text": text, "pooled": pooled}, {"text": null, "pooled": null_pooled}


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "sd3-without-t5", "pixart", "flux"])
def test_conditions_are_those_of_the_pipeline(name, teacher, pipe):
    cond, null = teacher(name).encode(PROMPTS)
    for found, wanted in zip((cond, null), literal(pipe(name), name), strict=True):
        assert found.keys() - {"time_ids"} == wanted.keys()
        for key, value in wanted.items():
            close(found[key], value, rtol=1e-5, atol=1e-5)
    assert cond["text"].abs().mean() > 0.1


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_a_negative_prompt_is_the_null_condition(name, teacher, pipe):
    from dmd2_plugins.stable_diffusion.teacher import negative

    wanted = literal(pipe(name), name, negative_prompt=["red cat"] * 3)[1]
    for found in (teacher(name, negative="red cat"), negative(teacher(name), "red cat")):
        for key, value in wanted.items():
            close(found.encode(PROMPTS)[1][key], value, rtol=1e-5, atol=1e-5)


def test_the_null_of_sd15_is_the_empty_prompt_and_that_of_sdxl_is_zeros(teacher):
    cond, null = teacher("sd15").encode(["", None])
    assert cond["text"].equal(null["text"]) and null["text"].any()
    cond, null = teacher("sdxl").encode(["", None])
    assert not null["text"].any() and not null["pooled"].any()
    assert cond["text"][0].any() and not cond["text"][1].any()


def test_sdxl_reads_the_second_tokenizer_and_penultimate_hidden_states(teacher, pipe):
    """The second tokenizer pads with another token, so that reading it with the first changes the pooled text."""
    pipe, cond = pipe("sdxl"), teacher("sdxl").encode(["a llama"])[0]
    one, two = pipe.tokenizer, pipe.tokenizer_2
    options = {"padding": "max_length", "max_length": 77, "return_tensors": "pt"}
    ids, right = (t("a llama", **options).input_ids for t in (one, two))
    assert not ids.equal(right)
    with torch.no_grad():
        states = pipe.text_encoder_2(right, output_hidden_states=True)
        wrong = pipe.text_encoder_2(ids, output_hidden_states=True)
    close(cond["text"][:, :, 32:], states.hidden_states[-2])
    assert not torch.allclose(cond["text"][:, :, 32:], states.hidden_states[-1], atol=1e-3)
    assert not torch.allclose(cond["text"][:, :, 32:], wrong.hidden_states[-2], atol=1e-3)


def test_micro_conditions_are_the_size_for_all(teacher):
    from dmd2_plugins.stable_diffusion.teacher import resized

    cond, null = teacher("sdxl").encode(["a", None])
    assert cond["time_ids"].tolist() == null["time_ids"].tolist() == [[16.0, 16, 0, 0, 16, 16]] * 2
    wide = resized(teacher("sdxl"), 8, 32)
    assert wide.shape == (4, 4, 16) and wide.encode(["a"])[0]["time_ids"].tolist() == [[8.0, 32, 0, 0, 8, 32]]
    assert teacher("sdxl", resolution=(8, 32)).shape == (4, 4, 16)
    assert "time_ids" not in teacher("sd15").encode(["a"])[0]


def test_long_prompts_are_cut_and_the_first_ones_told_once(teacher, capsys):
    source = teacher("sd15")
    source.encode([LONG, "a cat", LONG])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "prompt cut to the 77 tokens that fit; left out: 'cat red cat red" in said
    source.encode([LONG])
    source.encode([f"{LONG} {i}" for i in range(40)])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and said[-1].endswith("; others are cut without a word")
    kept = source.encode([LONG])[0]["text"]
    assert kept.equal(source.encode([LONG + " and more"])[0]["text"])


def test_a_prompt_of_the_longest_length_is_not_cut(teacher, capsys):
    teacher("sd15").encode([" ".join(["a"] * 75)])
    assert capsys.readouterr().err == ""


def test_class_labels_are_refused(teacher):
    with pytest.raises(UserError, match="condition 3: this teacher reads prompts; give text"):
        teacher("sd15").encode(["a", 3])


def test_repeated_prompts_and_the_null_condition_cost_nothing(teacher):
    source, calls = teacher("sd15"), []
    text = source.encode.text.get()
    text.register_forward_hook(lambda module, args, out: calls.append(list(args[0])))
    source.encode(["a", "b", "a", None])
    source.encode(["b", "a"])
    assert calls == [["a", "b", ""]]
    source.encode([str(i) for i in range(50)])
    source.encode([None])
    assert len(calls) == 2 and len(source.encode.memory) <= 32


def test_encoders_load_late_and_move_and_can_be_bf16(teacher):
    source = teacher("sdxl", text_dtype="bf16")
    words = source.helpers[0]
    assert not words.loaded and not source.helpers[1].loaded
    cond, null = source.encode(["a"])
    assert words.loaded and cond["text"].dtype == null["text"].dtype == torch.bfloat16
    exact = teacher("sdxl").encode(["a"])[0]
    assert (cond["text"].float() - exact["text"]).norm() < 0.05 * exact["text"].norm()
    words.to(torch.float32)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in words.parameters())


def test_text_of_another_family_is_refused(model):
    from dmd2_plugins.stable_diffusion.teacher import sdxl

    with pytest.raises(UserError, match="has no tokenizer_2; choose a whole diffusers folder"):
        sdxl(model=model("sdxl"), text=model("sd15"))


def test_text_from_another_model(teacher, model, tmp_path):
    import shutil

    from dmd2_plugins.stable_diffusion.teacher import sd15

    bare = tmp_path / "bare"
    shutil.copytree(model("sd15"), bare)
    for part in ("tokenizer", "text_encoder"):
        shutil.rmtree(bare / part)
    with pytest.raises(UserError, match="bare: has no tokenizer; "):
        sd15(model=str(bare))
    found = sd15(model=str(bare), text=model("sd15")).encode(["a llama"])[0]
    assert found["text"].equal(teacher("sd15").encode(["a llama"])[0]["text"])
