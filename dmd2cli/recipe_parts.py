"""The parts of a recipe: strict, frozen, every field with its unit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dmd2cli.recipe_base import Fraction, Interval, NotNegative, Part, Positive, PositiveFloat, Use
from dmd2cli.recipe_health import Health
from dmd2cli.recipe_run import Keep, Run

__all__ = ["Health", "Keep", "Part", "Positive", "Run", "Use"]


class Pairs(Use):
    """A data set of noise-image pairs, and how it enters the training."""

    batch: Positive | None = Field(None, description="pairs per update; null = run.batch")
    matched: bool = Field(False, description="their samples are part of the DM batch ([DMD] Alg. 1, text models)")


class Term(Part, extra="allow"):
    """A loss term, named by its key under `losses`: its weight in the player's sum, and its options."""

    weight: Annotated[float, Field(ge=0)] | Literal["auto"] = 1.0
    auto_updates: Positive = Field(50, description="generator updates over which weight: auto is measured")


class Optimiser(Part):
    """AdamW with linear warm-up and decay."""

    lr: PositiveFloat
    clip: PositiveFloat | Literal["run"] | None = Field("run", description="largest gradient norm; run = run.clip")
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(0, ge=0)
    decay_from: Fraction = Field(1.0, description="share of run.steps before lr falls linearly; 1 = never")
    decay_to: Fraction = Field(0.0, description="share of lr reached at the last step, if it falls")


class Averaged(Optimiser):
    """The optimiser of a network that is sampled from, and so may keep a moving average of its weights."""

    ema_halflife_images: PositiveFloat | None = Field(None, description="of the weights; null = none")
    ema_ramp: PositiveFloat | None = Field(0.05, description="largest half-life as a share of images seen")


class Lora(Part):
    """A network that learns as a low-rank adapter (Hu et al. 2021) of a frozen base."""

    rank: Positive = 64
    alpha: PositiveFloat = Field(8.0, description="the adapter is scaled by alpha / rank")
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | None = Field(None, description="layers by the end of their names; null = the family's")


class GuidanceRange(Part):
    """Guidance scales of a student that is conditioned on the scale, drawn uniformly in training."""

    min: float = Field(ge=0)
    max: float = Field(ge=0)

    @model_validator(mode="after")
    def _rises(self) -> GuidanceRange:
        if self.min >= self.max:
            raise ValueError(f"min must be below max, got {self.min:g} and {self.max:g}")
        return self


class Student(Averaged):
    """The few-step generator. times: where it is called, falling in (0, 1], 1 = noise."""

    times: tuple[float, ...] = (1.0,)
    sampler: Literal["stochastic", "ode"] = Field("stochastic", description="fresh noise between calls, or the ODE's")
    input: Literal["simulated", "real"] = Field("simulated", description="what later calls are trained on")
    first_input: Literal["noise", "real"] = Field("noise", description="what the first call is trained on")
    guidance: GuidanceRange | None = Field(None, description="for a student that takes the scale as an input")
    lora: Lora | None = Field(None, description="null = all weights learn")
    init: str | None = Field(None, description="a student to start from: run, folder, file or name; null = the teacher")

    @field_validator("times")
    @classmethod
    def _falling(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if not times or list(times) != sorted(set(times), reverse=True) or not 0 < times[-1] <= times[0] <= 1:
            raise ValueError(f"must fall strictly and lie in (0, 1], got {list(times)}; try [1.0, 0.5]")
        return times


class Head(Part):
    """What the GAN head reads: the trainable critic (as released) or the frozen teacher, at which depths."""

    reads: Literal["critic", "teacher"] = "critic"
    depths: tuple[NotNegative, ...] | None = Field(
        default=None, min_length=1, description="0 = shallowest; null = the bottleneck"
    )


class Critic(Optimiser):
    """The fake score and its GAN head."""

    head: Head = Head()
    lora: Lora | None = Field(None, description="of the fake score; null = all weights learn")
    per_call: bool = Field(default=False, description="a critic for each call of the student; one learns their mixture")
    warmup: int = Field(0, ge=0, description="critic updates before the first of the generator")
    lag_every: Interval = Field(
        default="auto", description="steps between two of the critic's lag; auto = a quarter of the run, or 1000"
    )


class Data(Part):
    """prompts: conditions of generated samples. real: samples for the losses that read them. pairs: for regression."""

    prompts: Use | None = None
    prompts_of_real: bool = Field(default=False, description="conditions are those of the real batch (FastGen)")
    real: Use | None = None
    pairs: Pairs | None = None
    workers: NotNegative = Field(default=2, description="threads that read real data from files ahead; 0 = none")


class Recipe(Part):
    """A distillation. ttur: critic updates per generator update. metrics: what `dmd2 eval all` reports."""

    preset: str | None = Field(None, description="defaults below everything else: dmd2-release, dmd1-paper, fastgen")
    teacher: Use
    student: Student
    critic: Critic
    ttur: Positive = 1
    turns: Literal["together", "alternate"] = Field("together", description="do generator steps update the critic too")
    shared_base: bool = Field(default=False, description="teacher, fake score and student are one network in memory")
    bins: Positive | None = Field(None, description="noise levels that times are drawn from; null = all")
    losses: dict[str, Term]
    data: Data = Data()
    sampler: Use
    metrics: tuple[Use, ...] = ()
    health: Health = Health()
    run: Run
    stages: tuple[dict[str, Any], ...] = Field((), description="partial recipes, each with the step it lasts until")

    @field_validator("shared_base")
    @classmethod
    def _adapted(cls, shared: bool, info: ValidationInfo) -> bool:
        student, critic = info.data.get("student"), info.data.get("critic")
        if shared and student and critic and (student.lora is None or critic.lora is None):
            raise ValueError("needs student.lora and critic.lora: adapters are all that differs on a shared base")
        return shared

    @field_validator("turns")
    @classmethod
    def _critic_moves(cls, turns: str, info: ValidationInfo) -> str:
        if turns == "alternate" and info.data.get("ttur") == 1:
            raise ValueError("must be together where ttur is 1: alternating, the critic would never move; raise ttur")
        return turns

    @field_validator("losses", mode="before")
    @classmethod
    def _without_removed(cls, terms: Any) -> Any:
        """A term set to null, by an override or a child recipe, is gone."""
        return {k: v for k, v in terms.items() if v is not None} if isinstance(terms, dict) else terms


class PretrainRecipe(Part):
    """The training of a network from scratch: a teacher, or the features of a metric."""

    task: Use
    optimiser: Averaged
    data: Data = Data()
    run: Run


AnyRecipe = Recipe | PretrainRecipe
