"""One safetensors file with the whole inference contract in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmd2_plugins.export.compare import largest_difference
from dmd2cli.student import Student, load_student
from dmd2cli.weights import save_weights


def export(student: Student, out: Path) -> Mapping[str, Any]:
    """Write out, which `dmd2 sample --student OUT` takes; the loaded copy must draw the same pixels."""
    contract = {"dmd2_student": json.dumps(student.contract)}
    save_weights(student.source.network.state_dict(), out, contract)
    loaded = load_student(out)
    return {"file": str(out), "max_pixel_difference": largest_difference(student(n=16), loaded(n=16), out)}
