"""One safetensors file with the whole inference contract in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmd2_plugins.export.compare import largest_difference
from dmd2cli.student import Student, load_student
from dmd2cli.weights import save_weights


def export(student: Student, out: Path) -> Mapping[str, Any]:
    """Write out, which `dmd2 sample --student OUT` takes; the loaded copy must draw the same pixels."""
    contract = {"dmd2_student": json.dumps(student.contract)}
    draft = out.with_name(f".{out.name}.tmp.safetensors")
    try:
        save_weights(student.source.network.state_dict(), draft, contract)
        difference = largest_difference(student(n=16), load_student(draft)(n=16), out)
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
    return {"file": str(out), "max_pixel_difference": difference}
