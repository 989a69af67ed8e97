"""dmd2: Distribution Matching Distillation (arXiv 2311.18828, 2405.14867). Importing this imports no torch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)      # peft imports it, and it warns of kernels not used here

__version__ = "0.1.0"
__all__ = ["__version__", "load_student"]

if TYPE_CHECKING:
    from dmd2cli.student import load_student as load_student


def __getattr__(name: str) -> Any:
    """Import `load_student` (and torch) on first use."""
    if name == "load_student":
        from dmd2cli.student import load_student

        return load_student
    raise AttributeError(f"module 'dmd2cli' has no attribute {name!r}")
