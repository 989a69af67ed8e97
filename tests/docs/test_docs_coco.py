"""The COCO subset that docs/metrics.md tells to make, made of a small stand-in for COCO."""

import json

from mdblocks import ROOT, blocks
from PIL import Image

from dmd2cli.data.sources.texts import read_prompts
from dmd2cli.pictures import open_pictures


def test_the_subset_is_a_reference_with_the_captions_of_its_own_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val2014").mkdir()
    images, captions = [], []
    for i in range(8):
        images.append({"id": i, "file_name": f"COCO_val2014_{i:012}.jpg"})
        captions += [{"id": 10 * i + k, "image_id": i, "caption": f"image {i}"} for k in range(5)]
        Image.new("RGB", (30 + i, 20), (20 * i, 0, 0)).save(tmp_path / "val2014" / images[-1]["file_name"])
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (code,) = [b.text for b in blocks(ROOT / "docs/metrics.md") if "read_coco" in b.text]
    exec(compile(code.replace("10_000", "5"), "docs/metrics.md", "exec"), {})
    found = open_pictures(tmp_path / "coco-10k", mixed=True, captions=True)
    assert len(found) == 5 and len(read_prompts("coco-10k/metadata.jsonl")) == 5
    for name, text in ((found.source.name(i), found.conditions(5)[i]) for i in range(5)):
        assert text == f"image {int(name[13:25])}"
