"""Noise-image pairs: made, continued, merged, and read as a data set."""

import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from dmd2cli import registry
from dmd2cli.core.noise import Discrete, RectifiedFlow
from dmd2cli.core.random import Numbered
from dmd2cli.core.weighting import uniform
from dmd2cli.data.labels import ClassLabels
from dmd2cli.data.pair_files import fingerprint
from dmd2cli.data.pairs import Pairs
from dmd2cli.data.shard_files import OPEN, Shard
from dmd2cli.engine.pairs import make, maker
from dmd2cli.engine.shard_folder import batched, missing
from dmd2cli.errors import UserError
from dmd2cli.protocols import Example, Teacher
from dmd2cli.recipe import Recipe, load
from dmd2cli.testing import check_dataset

CPU, SHAPE, SIZE = torch.device("cpu"), (2, 3), 8
WORDS = ["a cat", "a très small dog", "", 'a "quoted" owl', "an ox"]
HEUN = {"use": "heun", "steps": 3}
CALLS = 4
"""Network calls of a pair: the first of the three steps starts at alpha = 0 and so takes one."""
SHARD = Shard(first=0, n=1, size=0, sha256="")


class Shrink(nn.Module):
    """x_hat = scale x_t + condition: elementwise, so that equal inputs give equal bits in any batch."""

    def __init__(self, scale=0.5):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))
        self.calls = 0

    def forward(self, x_t, t, cond):
        self.calls += len(x_t)
        return self.scale * x_t + (cond["length"][:, :, None] if cond else 0.0)


def encode(raw):
    length = torch.tensor([[len(c or "") / 10] for c in raw])
    return {"length": length}, {"length": torch.zeros_like(length)}


def teacher(scale=0.5, schedule=None, conditional=True):
    found = encode if conditional else lambda raw: ({}, {})
    return Teacher(Shrink(scale), schedule or RectifiedFlow(), SHAPE, uniform, found, lambda x: x, nn.Identity)


class Captions:
    """A data set of prompts."""

    def __len__(self):
        return len(WORDS)

    def __getitem__(self, i):
        return Example(condition=WORDS[i])


@contextmanager
def registered(found):
    with registry.override("teachers", "shrink", lambda: found), registry.override("datasets", "words", Captions):
        yield


def recipe(sampler=HEUN, prompts="words", batch=4, **losses):
    parts = {"student": {"lr": 1e-3}, "critic": {"lr": 1e-3}, "losses": losses, "sampler": sampler}
    data = {"prompts": {"use": prompts}} if prompts else {}
    return Recipe.model_validate({"teacher": "shrink", **parts, "data": data, "run": {"steps": 9, "batch": batch}})


def pairs(folder, n, first=0, size=SIZE, seed=7, guidance=None, of=None, **parts):
    """Make pairs of a toy teacher; returns (what make() says, calls of its network)."""
    of = of or teacher()
    with registered(of):
        facts = make(maker(recipe(**parts), CPU, seed, guidance), folder, range(first, first + n), size)
    return facts, of.denoiser.calls


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stacked(folder):
    found = Pairs(str(folder))
    examples = [found[i] for i in range(len(found))]
    noise, x = torch.stack([e.noise for e in examples]), torch.stack([e.x for e in examples])
    return noise, x, [e.condition for e in examples]


@pytest.fixture
def whole(tmp_path):
    """20 pairs in three shards."""
    pairs(tmp_path / "whole", 20)
    return tmp_path / "whole"


# -- making ----------------------------------------------------------------------------------------------------


def test_a_pair_is_the_noise_of_its_number_and_what_the_sampler_makes_of_it(whole):
    noise, x, conditions = stacked(whole)
    assert torch.equal(noise, Numbered(7, range(20)).normal("noise", torch.empty(20, *SHAPE)))
    assert conditions == [WORDS[i % 5] for i in range(20)]
    with registered(found := teacher()):
        source = maker(recipe(), CPU, 7, None).source
    assert torch.equal(x, source.latents(conditions, 7, range(20))) and found.denoiser.calls


def test_without_prompts_there_are_no_conditions(tmp_path):
    pairs(tmp_path, 5, prompts=None)
    assert stacked(tmp_path)[2] == [None] * 5


def test_the_answer_says_what_was_made(tmp_path):
    facts, calls = pairs(tmp_path, 20)
    assert facts.pop("seconds") >= 0 and calls == 20 * CALLS
    assert facts == {"out": str(tmp_path), "n": 20, "made": 20, "shards": 3, "nfe": 5}
    assert list(files(tmp_path)) == ["manifest.json", *(f"pairs-{i:09d}.safetensors" for i in (0, 8, 16))]


def test_guidance_is_that_of_the_recipe_unless_it_is_given(tmp_path):
    plain, strong, given = (tmp_path / name for name in ("plain", "strong", "given"))
    pairs(plain, 4)
    pairs(strong, 4, distribution_matching={"guidance": 3.0})
    pairs(given, 4, guidance=3.0, distribution_matching={"guidance": 2.0})
    assert torch.equal(stacked(strong)[1], stacked(given)[1])
    assert not torch.equal(stacked(plain)[1], stacked(given)[1])
    assert [Pairs(str(f)).contract["guidance"] for f in (plain, strong, given)] == [1.0, 3.0, 3.0]


def test_guidance_of_a_teacher_without_conditions_is_refused(tmp_path):
    with pytest.raises(UserError, match="guidance 2: this teacher is unconditional; use --guidance 1"):
        pairs(tmp_path / "out", 4, guidance=2.0, of=teacher(conditional=False), prompts=None)
    assert not (tmp_path / "out").exists()
    pairs(tmp_path / "out", 4, guidance=1.0, of=teacher(conditional=False), prompts=None)


@dataclass(frozen=True)
class Silent:
    """A sampler that does not say whether it is deterministic."""

    nfe = 0

    def __cexamples_(self, denoise, schedule, noise, rng):
        return noise


@pytest.mark.parametrize("sampler", ["edm_sde", {"use": "few_step", "times": [1.0, 0.5]}, "silent"])
def test_a_sampler_with_noise_of_its_own_is_refused_by_name(tmp_path, sampler):
    with registry.override("samplers", "silent", Silent), pytest.raises(UserError) as said:
        pairs(tmp_path / "out", 4, sampler=sampler)
    name = sampler if isinstance(sampler, str) else sampler["use"]
    assert str(said.value) == f"sampler: {name} adds noise of its own, and pairs must not; use heun"
    assert not (tmp_path / "out").exists()


def test_a_sample_that_is_not_finite_is_refused_with_its_numbers(tmp_path):
    with pytest.raises(UserError, match="pairs 0 to 3: a sample is not finite"):
        pairs(tmp_path, 8, of=teacher(float("nan")))
    assert files(tmp_path) == {}


# -- continuing ------------------------------------------------------------------------------------------------


def test_the_same_command_again_makes_nothing(whole):
    before = files(whole)
    facts, calls = pairs(whole, 20)
    assert (facts["made"], calls) == (0, 0) and files(whole) == before


def deleted(path):
    path.unlink()


def truncated(path):
    os.truncate(path, path.stat().st_size - 4)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replaced(path):
    path.write_text("just words")


@pytest.mark.parametrize("damage", [deleted, truncated, flipped, replaced])
def test_a_shard_that_is_missing_or_damaged_is_made_again_and_no_other(whole, capsys, damage):
    before = files(whole)
    damage(whole / "pairs-000000008.safetensors")
    facts, calls = pairs(whole, 20)
    assert (facts["made"], calls) == (8, 8 * CALLS) and files(whole) == before
    assert ("pairs-000000008.safetensors: damaged" in capsys.readouterr().err) == (damage is not deleted)


def test_more_pairs_extend_the_set_and_leave_what_is_there(whole):
    before, (noise, x, _) = files(whole), stacked(whole)
    facts, calls = pairs(whole, 30)
    assert (facts["made"], calls) == (10, 10 * CALLS)
    assert {name: data for name, data in files(whole).items() if name in before and name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    more = stacked(whole)
    assert torch.equal(more[0][:20], noise) and torch.equal(more[1][:20], x)
    assert torch.equal(more[0], Numbered(7, range(30)).normal("noise", torch.empty(30, *SHAPE)))


def test_fewer_pairs_than_there_are_is_refused_with_the_range_that_works(whole):
    before = files(whole)
    with pytest.raises(UserError, match=r"holds pairs from 0 to 19 already; ask for --first 0 -n 20, or choose"):
        pairs(whole, 10)
    with pytest.raises(UserError, match=r"ask for --first 0 -n 60, or"):
        pairs(whole, 10, first=50)
    assert files(whole) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 8}, "seed = 7, now it is 8"),
        ({"guidance": 2.0}, "guidance = 1.0, now it is 2.0"),
        ({"sampler": {"use": "heun", "steps": 4}}, "sampler.steps = 3, now it is 4"),
        ({"sampler": "ddim"}, "sampler.use = 'heun', now it is 'ddim'"),
        ({"prompts": None}, "prompts = {'use': 'words'}, now it is None"),
        ({"of": teacher(0.4)}, "fingerprint = "),
        ({"of": teacher(schedule=Discrete.linear())}, "schedule.type = 'RectifiedFlow', now it is 'Discrete'"),
    ],
)
@pytest.mark.parametrize("manifest", [True, False])
def test_another_contract_in_the_folder_is_refused_with_the_first_difference(whole, manifest, change, said):
    if not manifest:
        (whole / "manifest.json").unlink()
    before = files(whole)
    with pytest.raises(UserError) as refused:
        pairs(whole, 20, **change)
    assert f"made with {said}" in str(refused.value) and files(whole) == before


def test_defaults_written_out_are_the_same_sampler(tmp_path):
    pairs(tmp_path, 4, sampler="heun")
    assert pairs(tmp_path, 4, sampler={"use": "heun", "steps": 18})[1] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_made_and_the_same_command_continues(tmp_path, whole, number, capsys):
    class Interrupting(Captions):
        """Prompts during whose third batch someone stops the command."""

        def __getitem__(self, i):
            if i == 3 and not (tmp_path / "asked").exists() and (out / "manifest.json").exists():
                (tmp_path / "asked").touch()
                os.kill(os.getpid(), number)
            return super().__getitem__(i)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), registered(teacher()), registry.override("datasets", "words", Interrupting):
        make(maker(recipe(), CPU, 7, None), out, range(20), SIZE)
    assert "12 of 20 pairs are there; the same command continues" in capsys.readouterr().err
    with pytest.raises(UserError, match="12 of 20 pairs are there"):
        Pairs(str(out))
    facts, calls = pairs(out, 20)
    assert calls == facts["made"] * CALLS == 8 * CALLS
    for mine, theirs in zip(stacked(out), stacked(whole), strict=True):
        assert mine == theirs if isinstance(mine, list) else torch.equal(mine, theirs)


def test_a_full_disk_is_one_line_and_finished_shards_stay(whole):
    before, limits = files(whole), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"pairs-000000020.safetensors: cannot be written .*; free some space"):
            pairs(whole, 420, size=400)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(whole).keys() == before.keys()
    with pytest.raises(UserError, match="20 of 420 pairs are there"):
        Pairs(str(whole))
    assert pairs(whole, 20)[1] == 0 and files(whole) == before


# -- slices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [(0, 8, 20), (0, 4, 12, 20), (0, 3, 20)], ids=str)
@pytest.mark.parametrize("with_manifest", [True, False])
def test_slices_made_elsewhere_are_merged_without_making_anything(tmp_path, whole, cuts, with_manifest):
    merged = tmp_path / "merged"
    merged.mkdir()
    for start, stop in pairwise(cuts):
        pairs(tmp_path / f"{start}", stop - start, first=start)
        for path in (tmp_path / f"{start}").iterdir():
            if with_manifest or path.name != "manifest.json":
                shutil.copy(path, merged)
    facts, calls = pairs(merged, 20)
    assert (facts["made"], calls) == (0, 0)
    for mine, theirs in zip(stacked(merged), stacked(whole), strict=True):
        assert mine == theirs if isinstance(mine, list) else torch.equal(mine, theirs)


def test_gaps_between_slices_are_made(tmp_path, whole):
    for start, stop in ((2, 5), (14, 18)):
        pairs(tmp_path / f"{start}", stop - start, first=start)
        shutil.copytree(tmp_path / f"{start}", tmp_path / "merged", dirs_exist_ok=True)
    facts, calls = pairs(tmp_path / "merged", 20)
    assert calls == facts["made"] * CALLS == 13 * CALLS
    assert torch.equal(stacked(tmp_path / "merged")[1], stacked(whole)[1])


def test_a_slice_that_overlaps_another_is_told_of_and_left_out(tmp_path, whole, capsys):
    pairs(tmp_path / "slice", 4, first=6)
    shutil.copy(tmp_path / "slice" / "pairs-000000006.safetensors", whole)
    facts, calls = pairs(whole, 20)
    assert (facts["made"], facts["shards"], calls) == (0, 3, 0)
    assert "pairs-000000006.safetensors: left out; pairs-000000000.safetensors has" in capsys.readouterr().err


def test_a_lone_slice_is_a_data_set_of_its_own(tmp_path, whole):
    pairs(tmp_path / "slice", 7, first=6)
    found = Pairs(str(tmp_path / "slice"))
    assert len(found) == 7 and torch.equal(found[0].x, Pairs(str(whole))[6].x) and found[6].condition == WORDS[12 % 5]


def test_a_network_of_convolutions_gives_aligned_slices_bit_for_bit_and_others_nearly(tmp_path):
    asked = load("digits", ["run.batch=8", "run.threads=1", "sampler.steps=3"])
    by = maker(asked, CPU, 0, None)
    for name, numbers in (("whole", range(32)), ("aligned", range(8, 24)), ("askew", range(9, 23))):
        make(by, tmp_path / name, numbers, 16)
    whole, aligned, askew = (stacked(tmp_path / name) for name in ("whole", "aligned", "askew"))
    assert torch.equal(aligned[1], whole[1][8:24]) and torch.equal(aligned[0], whole[0][8:24])
    assert torch.equal(askew[0], whole[0][9:23]) and askew[2] == whole[2][9:23]
    torch.testing.assert_close(askew[1], whole[1][9:23], rtol=1e-3, atol=1e-3)


def test_missing_parts_are_cut_where_shards_end():
    held = [replace(SHARD, first=4, n=2), replace(SHARD, first=16, n=8)]
    assert list(missing(held, range(1, 30), 8)) == [range(1, 4), range(6, 8), range(8, 16), range(24, 30)]
    assert list(missing([], range(3), 8)) == [range(3)] and list(missing(held, range(16, 24), 8)) == []


def test_batches_start_at_the_same_numbers_in_every_slice():
    assert list(batched(range(16, 30), 16, 5)) == [range(16, 21), range(21, 26), range(26, 30)]
    assert list(batched(range(18, 23), 16, 5)) == [range(18, 21), range(21, 23)]
    assert list(batched(range(3), 16, 500)) == [range(3)]


# -- reading ---------------------------------------------------------------------------------------------------


def test_the_data_set_keeps_its_protocol(whole):
    check_dataset(Pairs(str(whole)), teacher())
    assert len(Pairs(str(whole))) == 20
    for i in (-1, 20):
        with pytest.raises(IndexError):
            Pairs(str(whole))[i]


def test_more_shards_than_are_kept_open_are_read(tmp_path):
    pairs(tmp_path, OPEN + 6, size=1)
    noise, _, _ = stacked(tmp_path)
    again = Pairs(str(tmp_path))
    assert all(torch.equal(again[i].noise, noise[i]) for i in (OPEN + 5, 0, OPEN, 3))


@pytest.mark.parametrize("count", [1, 9, 20])
def test_count_takes_the_first(whole, count):
    found = Pairs(str(whole), count)
    assert len(found) == count and torch.equal(found[count - 1].x, Pairs(str(whole))[count - 1].x)
    with pytest.raises(IndexError):
        found[count]


@pytest.mark.parametrize("count", [0, -1, 21])
def test_a_count_that_is_not_there_is_refused(whole, count):
    with pytest.raises(UserError, match=f"count: 20 pairs are there, got {count}; take fewer, or make more"):
        Pairs(str(whole), count)


def test_a_folder_that_is_not_there_or_empty_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="no such folder of pairs; make it with dmd2 pairs RECIPE -o "):
        Pairs(str(tmp_path / "no"))
    with pytest.raises(UserError, match=r"holds no pairs \(no manifest.json\); make some with dmd2 pairs RECIPE -o "):
        Pairs(str(tmp_path))


@pytest.mark.parametrize("damage", [deleted, truncated, replaced])
def test_a_set_that_is_cut_short_says_how_many_are_there(whole, damage):
    damage(whole / "pairs-000000008.safetensors")
    with pytest.raises(UserError, match="12 of 20 pairs are there; run dmd2 pairs again to finish"):
        Pairs(str(whole))


def test_a_shard_damaged_under_its_old_size_is_named_when_it_is_read(whole):
    path = whole / "pairs-000000008.safetensors"
    path.write_bytes(b"x" * path.stat().st_size)
    found = Pairs(str(whole))
    assert found[7].x.isfinite().all()
    with pytest.raises(UserError, match=r"pairs-000000008.safetensors: damaged; run dmd2 pairs again"):
        found[8]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1, "contract": {}, "n": 20, "shards": [{"first": 0}]}'])
def test_a_manifest_that_is_cut_is_refused_and_written_anew(whole, text):
    before = files(whole)
    (whole / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json: cut short or changed; run dmd2 pairs again"):
        Pairs(str(whole))
    assert pairs(whole, 20)[1] == 0 and files(whole) == before


def test_a_set_of_a_newer_dmd2_is_left_alone(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps({**manifest, "format": 2}))
    before = files(whole)
    for act in (lambda: Pairs(str(whole)), lambda: pairs(whole, 20)):
        with pytest.raises(UserError, match="pairs of format 2, newer than this dmd2 reads; pip install -U dmd2cli"):
            act()
    assert files(whole) == before


# -- the same teacher ------------------------------------------------------------------------------------------


def test_pairs_of_this_teacher_sampler_and_guidance_pass(whole):
    found = Pairs(str(whole))
    found.check(teacher(), HEUN, 1.0)
    found.check(replace(teacher(), denoiser=Shrink().to(torch.bfloat16)), HEUN, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": replace(teacher(), shape=(3, 2))}, "of another teacher (shrink): shape [2, 3], here [3, 2];"),
        ({"teacher": teacher(schedule=Discrete.linear())}, "teacher (shrink): schedule.type RectifiedFlo, here"),
        ({"sampler": {"use": "heun", "steps": 50}}, "made with sampler.steps 3, and here it is 50; set it back, or"),
        ({"sampler": {"use": "ddim"}}, "made with sampler.use heun, and here it is ddim; set it back, or make"),
        ({"guidance": 8}, "made with guidance 1.0, and here it is 8.0; set it back, or make"),
    ],
)
def test_pairs_of_something_else_are_refused_with_both_values(whole, change, said):
    with pytest.raises(UserError) as refused:
        Pairs(str(whole)).check(**{"teacher": teacher(), "sampler": HEUN, "guidance": 1.0, **change})
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_pairs_of_other_weights_are_refused(whole):
    other = teacher(0.51)
    with pytest.raises(UserError) as refused:
        Pairs(str(whole)).check(other, HEUN, 1.0)
    old, new = (fingerprint(net)[:12] for net in (teacher().denoiser, other.denoiser))
    assert f"another teacher (shrink): fingerprint {old}, here {new}" in str(refused.value)


def test_a_fingerprint_is_of_names_shapes_and_values_and_not_of_the_type():
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40))
    first = fingerprint(net)
    assert fingerprint(net.to(torch.bfloat16)) == first
    assert fingerprint(net.to(memory_format=torch.channels_last)) == first
    weight = net[0].weight
    for place in ((0, 0, 0, 0), (39, 2, 2, 2)):
        before = weight.detach()[place].clone()
        weight.data[place] += 1
        assert fingerprint(net) != first
        weight.data[place] = before
    assert fingerprint(net) == first
    assert fingerprint(nn.ModuleList(net)) == first and fingerprint(nn.ModuleDict({"a": net[0], "1": net[1]})) != first
    flat, column = nn.Module(), nn.Module()
    flat.w, column.w = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4, 1))
    assert fingerprint(flat) != fingerprint(column) and fingerprint(nn.ParameterList([torch.zeros(0)]))


def test_class_labels_are_stored_as_numbers(tmp_path):
    found = replace(teacher(), encode=lambda raw: encode(["x" * c for c in raw]))
    with registered(found), registry.override("datasets", "words", lambda: ClassLabels(3)):
        make(maker(recipe(), CPU, 7, None), tmp_path, range(5), SIZE)
    assert stacked(tmp_path)[2] == [0, 1, 2, 0, 1]
