"""The benchmark of FID runs, on a space small enough for a test."""

import importlib.util
import json
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks/fid.py"


def test_it_times_the_bare_extractor_beside_the_pipeline_and_writes_json(monkeypatch, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("benchmark_fid", FILE)
    fid = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fid)
    args = ["--extractor", "tiny", "-n", "40", "--side", "8", "--batch", "16", "--pairs", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["fid.py", *args, str(tmp_path / "fid.json")])
    fid.main()
    found = json.loads((tmp_path / "fid.json").read_text())
    assert {"bare_s", "pipeline_s", "overhead", "images_per_s", "distance_s", "hardware", "torch"} <= found.keys()
    assert found["pipeline_s"] > 0 and "overhead" in capsys.readouterr().out
