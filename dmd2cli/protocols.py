"""The protocols: the one file a plugin author reads.

Notation in shapes: b batch, *d the dimensions of one sample (2 | c h w), h w the decoded image. x is in model
units (pixels in [-1, 1] or scaled latents); t in [0, 1] has no unit, 0 = data. Names, entry-point groups:

    dmd2.teachers     a function of recipe options that returns a Teacher
    dmd2.losses       a frozen dataclass, its fields the recipe's options: Loss
    dmd2.samplers     a frozen dataclass, its fields the recipe's options: Sampler
    dmd2.datasets     a class whose constructor takes the recipe's options: Dataset
    dmd2.metrics      a class or function that takes the recipe's options: Metric
    dmd2.extractors   a class or function of options that gives a features.Extractor, what metrics see images with
    dmd2.exporters    a function: Exporter
    dmd2.weightings   a function: Weighting (alpha, sigma) or DMWeighting (x, x_real, alpha, sigma)
    dmd2.rewards      a function of recipe options that returns a Reward
    dmd2.pretraining  a function of recipe options that returns a Task for `dmd2 pretrain`
    dmd2.converters   a class, its constructor takes the options: converters.Converter, what `dmd2 convert` reads with
    dmd2.students     a function without options that returns a published.Published: a student by name from the hub

Options are plain YAML values; type annotations are checked before anything is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dmd2cli.core.denoiser import Cond, Denoise, Denoiser, without_scale
from dmd2cli.core.heads import logits
from dmd2cli.core.noise import NoiseSchedule
from dmd2cli.core.random import Rng, Streams
from dmd2cli.core.weighting import Weighting

if TYPE_CHECKING:
    from dmd2cli.student import Student

Raw = int | str | None
"""A condition as a person writes it: a class label, a prompt, or None where there is no condition."""


@dataclass(frozen=True)
class Teacher:
    """What an entry point in dmd2.teachers returns.

    A teacher function may take `skeleton: Mapping | None = None`. `details` of a student artefact: the same object with
    weights that are about to be overwritten, without the teacher's checkpoint; options beside it go before the recorded
    ones where that changes no network (another VAE), and are refused elsewhere. {}: no weights at all (`dmd2 plan`).
    """

    denoiser: nn.Module
    """Frozen mu_real, a Denoiser."""
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    """Of one sample x."""
    weighting: Weighting
    """Denoising weight of Eq. 6, "the same as the base model's training" ([DMD] Sec. 3.2)."""
    encode: Callable[[Sequence[Raw]], tuple[Cond, Cond]]
    """Raw conditions -> (condition, null condition), as many rows each. Of none it gives names and shapes, and loads
    nothing. Raises UserError on a bad one."""
    decode: Callable[[Float[Tensor, b *d]], UInt8[Tensor, "b 3 h w"]]
    """Model units -> uint8 images (a VAE, or rounding). One with `latents(images in [-1, 1], noise | None) -> x` also
    encodes: the posterior's mean, or its sample by unit noise of x's shape (`dmd2 data cache`). `factor`, if there is
    one, is how many pixels of a side belong to one value of x; `with_tiny()` gives the same with a small decoder."""
    head: Callable[[], nn.Module]
    """A fresh GAN head that fits the student network's features()."""
    network: nn.Module | None = None
    """What generator and critic start from, where that is not a copy of the denoiser (analytic teachers)."""
    guided_network: Callable[[], nn.Module] | None = None
    """The denoiser that also reads cond["guidance"], scales (b,), for students of a range. None: there is none."""
    decoders: Mapping[str, Callable[[Float[Tensor, b *d]], Float[Tensor, "b 3 h w"]]] = field(default_factory=dict)
    """Differentiable ways to pixels in [-1, 1], for losses on images: "full", and "tiny" where there is one."""
    conditions: Sequence[Raw] = ()
    """All conditions there are, if they can be listed (class labels); empty for none or for free text."""
    prompts: bool = False
    """Whether conditions are free text."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a student artefact records: network configuration, licence, provenance. JSON values."""
    units: tuple[type[nn.Module], ...] = ()
    """Classes of its networks' blocks: what run.checkpointing and run.compile take one at a time."""
    lora_targets: tuple[str, ...] = ()
    """Layers that adapters go into unless a recipe names others, by the end of their names."""
    helpers: tuple[nn.Module, ...] = ()
    """Frozen modules behind encode and decode, moved with the teacher. One with `loaded: bool` waits until used."""
    resized: Callable[[Teacher, int, int], Teacher] | None = None
    """(this teacher, height, width in pixels) -> the same for that size, or UserError. None: it has one size."""
    negative: Callable[[Teacher, str], Teacher] | None = None
    """(this teacher, prompt) -> the same with that prompt as its null condition. None: it reads no prompts."""
    fp16: str = ""
    """Why networks of this family must not be trained in float16; empty if nothing is known."""


@dataclass(frozen=True)
class Pair:
    """Noise-image pairs of one micro-batch: what the teacher's ODE made of some noise, and what the student makes."""

    target: Float[Tensor, b *d]
    """The teacher's images y."""
    x: Float[Tensor, b *d]
    """The student's from the same noise, with gradient."""


@dataclass(frozen=True)
class Sample:
    """What the losses of one micro-batch see. Conditions are those of `x`; `real` has its own."""

    x: Float[Tensor, b *d]
    """The student's samples: with gradient on a generator turn, detached on a critic turn."""
    rows: slice
    """Which rows of the global batch of `total` these are."""
    total: int
    cond: Cond
    null: Cond
    real: Float[Tensor, b *d] | None = None
    real_cond: Cond = field(default_factory=dict)
    raw: Sequence[Raw] = ()
    """The conditions of `x` as a person writes them."""
    pair: Pair | None = None
    """On generator turns of a recipe with data.pairs."""
    call: int = 0
    """Which of the student's calls made `x`, from 0."""

    def __len__(self) -> int:
        return len(self.x)

    def detached(self) -> Sample:
        """The same samples without their graph, for the critic's turn."""
        return replace(self, x=self.x.detach(), pair=None)


@dataclass(frozen=True)
class Nets:
    """The networks of a distillation. `fake` and `head` together are the critic."""

    real: Denoiser
    fake: Denoiser
    head: nn.Module
    generator: Denoiser
    schedule: NoiseSchedule
    weighting: Weighting
    reads: Literal["critic", "teacher"] = "critic"
    """Whose features the GAN head judges."""
    depths: tuple[int, ...] | None = None
    """At which depths, 0 the shallowest; None for the bottleneck."""
    bins: int | None = None
    """How many noise levels there are to draw from; None for all of the clock."""
    decoders: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """The teacher's ways to pixels, for losses on images."""

    def times(self, rng: Rng, name: str, like: Tensor, low: float = 0.0, high: float = 1.0) -> Float[Tensor, " b"]:
        """One time per row of like, uniform in [low, high), or over the bins from low to high, both included."""
        if self.bins is None:
            return rng.uniform(name, like, low, high)
        first, last = round(low * self.bins), min(round(high * self.bins), self.bins - 1)
        index = (first + (last + 1 - first) * rng.uniform(name, like).double()).floor().clamp(max=last)
        return self.schedule.bin(index, self.bins).to(like.dtype)

    def realism(self, x_t: Float[Tensor, b *d], t: Float[Tensor, " b"], cond: Cond) -> Float[Tensor, "b n"]:
        """Logits of the discriminator, positive for real, one for each depth ([DMD2] Sec. 4.3)."""
        judge, cond = (self.real, without_scale(cond)) if self.reads == "teacher" else (self.fake, cond)
        if self.depths is None:
            return logits(self.head, judge.features(x_t, t, cond))
        return self.head(judge.taps(x_t, t, cond, self.depths))  # type: ignore[attr-defined]


class Loss(Protocol):
    """A term of one player's objective: hyper-parameters and a call into core.objective."""

    player: ClassVar[Literal["generator", "critic"]]
    reads_real: ClassVar[bool]
    """Whether the term needs real data (Sample.real)."""

    def __call__(self, s: Sample, nets: Nets, rng: Rng) -> Float[Tensor, ""]:
        """The term's mean over the micro-batch, before its recipe weight. A term may also have `check(teacher: Teacher,
        nets: Nets) -> None`, called once before training: it raises UserError where these networks cannot serve it. And
        it may say `reads_pairs` (Sample.pair), `reads_logits` (a trained discriminator) or `pairwise` (it compares
        samples of one condition: no mean over rows)."""


class Sampler(Protocol):
    """From noise to data, given a denoiser with conditions and guidance already bound in."""

    def __call__(
        self, denoise: Denoise, schedule: NoiseSchedule, noise: Float[Tensor, b *d], rng: Streams
    ) -> Float[Tensor, b *d]:
        """noise: unit normal. Returns x at t = 0, in model units."""

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""

    @property
    def deterministic(self) -> bool:
        """Whether x is a function of the noise alone: what noise-image pairs need. A sampler may also have
        `ends_at_table = True`: it ends at the first entry of a table, not at t = 0."""


@dataclass(frozen=True)
class Example:
    """One item of a Dataset; any part may be absent."""

    x: Tensor | None = None
    """A clean sample in model units."""
    condition: Raw = None
    noise: Tensor | None = None
    """In a set of pairs: the unit normal noise from which the teacher's ODE sampler made x."""
    encoded: Mapping[str, Tensor] | None = None
    """The condition as Teacher.encode gives it, without the batch dimension, where that was done beforehand."""


class Dataset(Protocol):
    """Position-addressed: item i is a function of i, so that resuming needs no state. If there is for_teacher(teacher),
    it gives the data set as that teacher needs it; check_teacher(teacher) raises UserError for another teacher; `null`
    is the null condition that goes with Example.encoded."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Example: ...


class Metric(Protocol):
    """Accumulates images, then answers. `name` carries its protocol. check(n), if there is one, refuses small n.

    It may also say `reads_prompts = True` (conditions have to be texts), `per_prompt` (images of one condition that it
    compares: so many are drawn of each prompt) and `any_size = True` (images may differ in size).
    """

    name: str
    protocol: Mapping[str, Any]

    def update(self, images: UInt8[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> None:
        """Take a batch of images and the conditions they were drawn for, and keep what is needed of them."""

    def compute(self) -> Mapping[str, float]:
        """All numbers; the one under "value" is the metric's own, and lower or higher is in `protocol`."""

    def real(self, n: int, seed: int) -> Mapping[str, float]:
        """The same numbers for n real samples: the floor that a perfect generator would reach. {} without real ones."""


class Reward(Protocol):
    """How much someone likes images: larger is better. What an entry point in dmd2.rewards returns."""

    def __call__(self, images: Float[Tensor, "b 3 h w"], conditions: Sequence[Raw]) -> Float[Tensor, " b"]:
        """images: in [-1, 1], with gradient; conditions: one per image, as a person writes them."""


class Exporter(Protocol):
    """Writes a student in a foreign format, reloads it, and compares before it calls it done."""

    def __call__(self, student: Student, out: Path) -> Mapping[str, Any]:
        """Write to out; return what was written and the largest pixel difference after reloading."""


@dataclass(frozen=True)
class Task:
    """What an entry point in dmd2.pretraining returns: a network, its loss, and what to save."""

    network: nn.Module
    loss: Callable[[nn.Module, Tensor, Sequence[Raw], Rng], Float[Tensor, ""]]
    """(network, x, conditions, rng) -> mean loss of a micro-batch."""
    score: Callable[[nn.Module], Mapping[str, float]] = lambda network: {}
    """Numbers of the finished network (EMA if there is one), for its provenance."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Recorded in the metadata of the saved weights. JSON values."""
    save: Callable[[nn.Module, Path], None] | None = None
    """Writes a finished network into the run folder in another form as well, beside weights.safetensors."""
