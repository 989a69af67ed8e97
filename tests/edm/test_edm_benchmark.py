"""benchmarks/edm.py as it runs without a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "edm.py"


def test_it_measures_a_tiny_cycle_and_says_that_it_is_tiny(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("edm_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "edm.json"
    options = ["--device", "cpu", "--batch", "1", "--cycles", "1", "--variants", "eager", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["edm.py", *options])
    module.main()
    assert "no GPU here" in capsys.readouterr().out
    found = json.loads(out.read_text())
    row = found["variants"]["eager"]
    assert found["tiny"] and found["preset"] == "tiny-adm" and "release" not in found
    assert row["images_per_s"] == pytest.approx(5 / row["cycle_s"])
    assert row["tflops"] == pytest.approx(found["gflop_per_cycle_and_row"] / 1e3 / row["cycle_s"])
    assert row["of_ceiling"] == pytest.approx(row["tflops"] / found["ceiling"]["tflops"])
