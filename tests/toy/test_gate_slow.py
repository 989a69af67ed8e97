"""Two time scales on other schedules and another mixture, over three seeds; TTUR 1 is printed, not judged."""

import pytest
from helpers_toy import train

CASES = {                                                                      # layout, overrides, bound of sliced-W2
    "ddpm": ("grid25", ("teacher.schedule=ddpm",), 10_000, 0.12),
    "flow": ("grid25", ("teacher.schedule=flow",), 10_000, 0.12),
    "ring8": (
        "ring8",
        (
            "teacher.pretrain_steps=2000", "run.batch=256", "student.lr=0.001", "critic.lr=0.001",
            "student.decay_from=1.0", "critic.decay_from=1.0",
        ),
        5_000,
        0.2,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layout, overrides, steps, bound", CASES.values(), ids=CASES)
def test_ttur_5_covers_every_mode(layout, overrides, steps, bound, seed):
    seeded = (*overrides, f"teacher.seed={seed}", f"run.seed={seed}")
    two = train(*seeded, "ttur=5", f"run.steps={steps}", layout=layout)
    one = train(*seeded, "ttur=1", f"run.steps={steps * 3 // 5}", layout=layout)
    print(f"\nttur 5: {two}\nttur 1: {one}")
    assert two.coverage.covered == {"grid25": 25, "ring8": 8}[layout]
    assert two.distance <= bound
