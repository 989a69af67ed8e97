"""docs/tutorial.md as it stands, at its real length: the students it makes are good."""

import json
from pathlib import Path

import mdblocks
import pytest

pytestmark = pytest.mark.slow
PAGE = mdblocks.ROOT / "docs/tutorial.md"


def test_from_an_empty_folder_to_two_distilled_models(tmp_path, monkeypatch):
    mdblocks.in_folder(tmp_path, monkeypatch)
    monkeypatch.setattr(mdblocks, "small", lambda args: args)
    namespace = {"__name__": "__main__"}
    for block in mdblocks.blocks(PAGE):
        if block.title or block.language in ("bash", "python"):
            mdblocks.run(block, namespace, monkeypatch)
    assert all(Path(name).is_file() for name in ("restored.png", "from-a-file.png", "waves.png"))
    found = json.loads(mdblocks.dmd2(["eval", "agreement", "--student", "runs/restorer", "-n", "200"], monkeypatch))
    assert found["value"] < 0.1 and found["value"] < 3 * found["baselines"]["teacher"]["value"]
    assert namespace["purity"] > 0.8
