"""The gate: on 25 modes, two time scales cover them all, one does not ([DMD2] Sec. 4.2)."""

from helpers_toy import train


def test_ttur_5_covers_the_grid_and_ttur_1_at_equal_cpu_does_not():
    """Raw weights. A cycle of TTUR 5 costs what three steps of TTUR 1 cost, hence 8,000 against 4,800 steps.

    At 5,000 steps the last modes are just being found: 23 to 25 are covered, by the seed and by the processor. At 8,000
    seeds 0, 1 and 2 cover 25 each (KL 0.018 to 0.036); TTUR 1 covers 15, 13 and 18 (KL 0.30 to 0.50).
    """
    two = train("ttur=5", "run.steps=8000")
    one = train("ttur=1", "run.steps=4800")
    print(f"\nttur 5: {two}\nttur 1: {one}")
    assert two.coverage.covered == 25
    assert one.coverage.covered <= 20
    assert one.coverage.kl > 5 * two.coverage.kl
    assert one.cpu_seconds > 0.7 * two.cpu_seconds
