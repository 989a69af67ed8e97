"""What FID costs beyond its feature extractor.

    python benchmarks/fid.py [--extractor inception-edm] [--weights FILE] [-n 128] [--side 64] [--batch 64] [--json F]

Timed in turn over the same images: the bare extractor, called on batches that lie on the device already, and the
whole pipeline of `dmd2 eval`, which takes images from the CPU in batches of 250 as a sampler hands them over, sends
them to the device, and keeps mean and covariance in float64. `overhead` is the median of pipeline / bare - 1 over the
pairs, of seconds on a GPU, and without one of the processor's own seconds, which other programs do not stretch. The
distance, once at the end whatever n is, is timed apart; drawing is no part of it. Without --weights the Inception
network is random: times are the same, the number means nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmd2cli.engine import runtime
from dmd2cli.engine.evaluate import measure_all
from dmd2cli.features import Space, space
from dmd2cli.frechet import gaussian_distance
from dmd2cli.moments import Moments
from dmd2cli.source import Source


def untrained(path: Path) -> str:
    """A file with the FID Inception's weights, all random, from torch-fidelity's own module; returns the path."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
            """Keep what it was born with."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.save(Untrained("untrained", ["2048"], nothing).state_dict(), path)
    return str(path)


class Ready:
    """A source whose images are drawn already."""

    cost: Mapping[str, object] = {}

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def conditions(self, n: int) -> list[None]:
        return [None] * n

    def draw(self, raw: list[None], seed: int) -> Iterator[Tensor]:
        yield from torch.split(self.images, 250)


class Streamed:
    """The metric without a reference: mean and covariance of what it sees."""

    name, protocol = "moments", {}

    def __init__(self, seen: Space) -> None:
        self.space, self.moments = seen, Moments(seen.extractor.dims, seen.device)

    def update(self, images: Tensor, conditions: list[None]) -> None:
        self.moments.update(self.space(images).vectors)

    def compute(self) -> dict[str, float]:
        return {"value": self.moments.covariance().trace().item()}

    def real(self, n: int, seed: int) -> dict[str, float]:
        return {}


def seconds(work: Callable[[], object]) -> float:
    """Of some work, until the device has ended it: of the wall where there is a GPU, else of the processor."""
    gpu = torch.cuda.is_available()
    clock = time.perf_counter if gpu else time.process_time
    started = clock()
    work()
    if gpu:
        torch.cuda.synchronize()
    return clock() - started


def measure(seen: Space, n: int, side: int, pairs: int) -> dict[str, float]:
    """{"bare_s", "pipeline_s", "overhead", "images_per_s", "distance_s"} for n random images."""
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = [part.to(seen.device) for part in torch.split(images, seen.batch)]

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            seen.extractor(batch)

    source: Source = Ready(images)  # type: ignore[assignment]
    pipeline = lambda: measure_all([Streamed(seen)], source, n, 0)                                  # noqa: E731
    bare()                                                                                          # warm up
    times = [(seconds(bare), seconds(pipeline)) for _ in range(pairs)]
    metric = Streamed(seen)
    measure_all([metric], source, n, 0)
    mean, covariance = metric.moments.numpy()
    distance = seconds(lambda: gaussian_distance(mean, covariance, mean, covariance))
    bare_s, pipeline_s = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "bare_s": bare_s,
        "pipeline_s": pipeline_s,
        "overhead": statistics.median(whole / alone - 1 for alone, whole in times),
        "images_per_s": n / pipeline_s,
        "distance_s": distance,
    }


def main() -> None:
    """Measure, print a line, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extractor", default="inception-edm")
    parser.add_argument("--weights")
    parser.add_argument("-n", type=int, default=128, help="images; 50000 for the protocol's own")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    threads = runtime.set_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights
        if weights is None and args.extractor == "inception-edm":
            weights = untrained(Path(folder) / "untrained.pth")
        seen = space(args.extractor, weights, str(runtime.device("auto")), args.batch)
    found = measure(seen, args.n, args.side, args.pairs)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    facts = {"extractor": seen.extractor.name, "n": args.n, "side": args.side, "batch": args.batch, "threads": threads}
    print(
        "{images_per_s:.1f} images/s; bare extractor {bare_s:.2f} s, pipeline {pipeline_s:.2f} s, overhead "
        "{overhead:+.1%}; the distance at the end {distance_s:.2f} s".format(**found)
    )
    if args.json is not None:
        facts |= {"hardware": gpu, "torch": torch.__version__}
        args.json.write_text(json.dumps(facts | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
