"""The teacher's own picture of what the previews of a run show: the same conditions, the same noise."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from PIL import Image

from dmd2cli.doctor.causes import matching
from dmd2cli.doctor.record import Record


def drawn(run: Record, device: str) -> Image.Image:
    """With the recipe's sampler and guidance. Loads the teacher; raises UserError where it cannot be had."""
    from dmd2cli.engine import build, preview, runtime
    from dmd2cli.recipe_build import check

    recipe, place = run.recipe, runtime.device(device)
    check(recipe)
    source = build.teacher_source(recipe, place)
    if source.teacher.encode([])[0]:
        source = replace(source, guidance=matching(recipe))
    data = recipe.data.model_copy(update={"pairs": None})
    batch = recipe.run.micro_batch or recipe.run.batch
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "teacher.png"
        with closing(build.loader(data, recipe.run, place, data.prompts_of_real)) as loader:
            preview.draw(source, loader, batch, file)
        with Image.open(file) as image:
            return image.convert("RGB")
