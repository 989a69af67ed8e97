"""What is drawn where: the logged numbers in groups, their names in words, the bounds that the doctor sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from dmd2cli.doctor import causes
from dmd2cli.doctor.symptoms import BOUNDS, WORSE
from dmd2cli.doctor.verdict import Verdict
from dmd2cli.recipe_health import SCORE


@dataclass(frozen=True)
class Group:
    """Signals that are looked at together."""

    title: str
    words: str
    patterns: Sequence[str]
    """Of the names in metrics.jsonl; a signal belongs to the first group that matches."""


GROUPS = (
    Group("Validation", "A metric that the run measures on a schedule.", ["validation/*"]),
    Group(
        "Student against teacher",
        "Images of the student beside the teacher's, for the same conditions.",
        ["health/mean_shift", "health/std_ratio", "health/brightness", "health/contrast", "health/saturation",
         "health/high_frequency", "health/diversity"],
    ),
    Group(
        "Critic and discriminator",
        "Whether the fake score keeps up with the student, and how strong the GAN is.",
        ["critic/lag", "health/gap/*", "health/accuracy/*", "health/gradient/*"],
    ),
    Group(
        "Gradients and learning progress",
        "Sizes of gradients and updates. Compare them with their own past.",
        ["*/gradient_norm", "*/update_ratio", "*/skipped", "*/weight/*", "health/ema", "stage"],
    ),
    Group("Losses", "Terms times their weights. They do not tell how good the student is.", ["generator/*", "critic*"]),
    Group("Teacher and data", "Whether the teacher is what its recipe says, and the data varied.", ["health/*"]),
    Group("Other numbers", "Logged by this run.", ["*"]),
)  # fmt: skip

WORDS = {
    "health/mean_shift": "largest difference of a channel's mean, in the teacher's standard deviations",
    "health/std_ratio": "standard deviation of the channel that differs most, over the teacher's",
    "health/brightness": "mean brightness minus the teacher's; 0 is black, 1 is white",
    "health/contrast": "contrast within an image, over the teacher's",
    "health/saturation": "saturation, over the teacher's",
    "health/high_frequency": "share of fine detail, over the teacher's",
    "health/diversity": "distance of two images of one condition, over the teacher's",
    "health/ema": "what the moving average changes in a sample, in standard deviations",
    "health/teacher/error": "one-step error of the teacher, 1 = the best linear prediction",
    "health/teacher/guided_error": "the same, under the recipe's guidance",
    "health/teacher/slope": "noise that the teacher leaves in (below 0) or takes out too much",
    "health/conditions": "different conditions in a batch, over what chance would give",
    "health/real/distinct": "share of the real samples of a batch that are different",
    "health/accuracy/fake": "share of the student's samples that the discriminator recognises",
    "health/accuracy/real": "share of real samples that the discriminator recognises",
    "critic/lag": "what further training of the critic alone would gain, as a share of its loss",
}
PATTERNS = {
    "health/gap/*": "distance of the two scores in a noise band, band 0 has the least noise",
    "health/gradient/*": "gradient at the sample, over that of distribution matching",
    "*/gradient_norm": "L2 norm before clipping",
    "*/update_ratio": "length of the last update, over that of the weights",
    "*/skipped": "updates that were not finite, so far",
    "*/weight/*": "what weight: auto stands for",
    "validation/*/raw": "without the moving average",
    "validation/*": "of the student as it is published",
}

LIMITS: dict[str, tuple[float, float]] = {
    **{name: (low, high) for name, (low, high, _) in BOUNDS.items()},
    "health/teacher/error": (-math.inf, causes.ERROR),
    "health/teacher/slope": (-causes.SLOPE, causes.SLOPE),
    "health/teacher/guided_error": (-math.inf, causes.GUIDED),
    "health/conditions": (causes.CONDITIONS, math.inf),
    "health/real/distinct": (causes.DISTINCT, math.inf),
    "health/gradient/gan_generator": (-math.inf, causes.GRADIENT),
    "critic/lag": (-math.inf, causes.LAG),
}
"""Signal -> (lowest, highest) value that raises no finding of `dmd2 doctor`."""


def grouped(names: Sequence[str]) -> list[tuple[Group, list[str]]]:
    """The groups that have signals, with them. The score of a validation is left out: it is the metric, or minus it."""
    metrics = [name for name in names if name.startswith("validation/") and name != SCORE]
    found: dict[str, list[str]] = {}
    for name in names:
        if name != SCORE or not metrics:
            first = next(group for group in GROUPS if any(fnmatch(name, pattern) for pattern in group.patterns))
            found.setdefault(first.title, []).append(name)
    return [(group, found[group.title]) for group in GROUPS if group.title in found]


def words(name: str) -> str:
    """What a signal is, in words; empty for one that is not known."""
    return WORDS.get(name) or next((text for pattern, text in PATTERNS.items() if fnmatch(name, pattern)), "")


def title(name: str) -> str:
    """A signal as a person calls it: "Generator: gradient norm"."""
    player, _, rest = name.partition("/")
    if player == "validation" and rest:
        return rest.replace("/", ", ")
    text = (rest or player).replace("_", " ").replace("-", " ").replace("/", ", ")
    said = f"{player}: {text}" if rest and player != "health" else text
    return said[:1].upper() + said[1:]


def limits(name: str, verdict: Verdict, metric: str) -> tuple[float, float]:
    """The bounds of a signal in a run, infinite where there is none. metric: of its validation."""
    if name == f"validation/{metric}" and verdict.best is not None and verdict.best["score"] > 0:
        return -math.inf, WORSE * float(verdict.best["score"])
    return LIMITS.get(name, (-math.inf, math.inf))
