"""What a metric of Inception features is called in another feature space."""

from __future__ import annotations

from dmd2cli.features import Extractor

INCEPTION = ("inception-edm", "inception-clean")


def called(own: str, elsewhere: str, extractor: Extractor) -> str:
    """OWN/SPACE in a published Inception space, ELSEWHERE/SPACE in any other: a name stands for one protocol."""
    return f"{own if extractor.name in INCEPTION else elsewhere}/{extractor.name}"
