"""Folders of pipelines, and files of LoRAs: where they are, and whether they can be loaded without running their code.

Nothing is ever downloaded, no pickle is opened, and no code of a folder is run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dmd2cli.errors import UserError
from dmd2cli.hub import snapshot

WHOLE = '--include "*.json" "*.txt" "*.model" "*.safetensors"'
"""What of a repository is enough for a pipeline."""
LIBRARIES = ("diffusers", "transformers")
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are not loaded: a checker blackens pictures, and the others read pictures."""
PATHLIKE = re.compile(r"[.~/\\]|.*[/\\].*[/\\]|.*\s")
"""A reference that cannot be the name of a repository."""
WEIGHTS = re.compile(r".*?(?:\.(fp16|bf16))?(?:-\d+-of-\d+)?\.(safetensors|bin|pt|pth|ckpt)")
LORA = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA's file in a folder."""


def located(ref: str) -> Path:
    """The folder of a pipeline, local or in the hub's cache. Raises UserError if there is none."""
    if not ref:
        raise UserError("--pipeline: names nothing; name the folder of a pipeline, or a name of the hub")
    path = Path(ref).expanduser()
    if path.is_file():
        raise UserError(f"{ref}: is a file; name the folder of a pipeline, with its model_index.json")
    return path.resolve() if path.is_dir() else cached(ref, WHOLE)


def cached(name: str, files: str) -> Path:
    """A repository in the local hub cache. Raises UserError if it is not there. files: what of it is needed."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if PATHLIKE.match(name):
        raise UserError(f"{name}: no such file or folder; check the path, or give a name of the hub")
    try:
        validate_repo_id(name)
    except HFValidationError as err:
        raise UserError(f"{name}: no such folder, and no name of the hub either ({str(err).splitlines()[0]})") from None
    if (found := snapshot(name)) is None:
        raise UserError(f"{name}: not in the local hub cache; get it with `hf download {name} {files}`")
    return found


def index(folder: Path) -> dict[str, Any]:
    """Its model_index.json. Raises UserError if that is not there, or names code that is not of the libraries."""
    import diffusers

    path = folder / "model_index.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: has no model_index.json; name the folder of a whole pipeline") from None
    except (ValueError, OSError) as err:
        raise UserError(f"{path}: cannot be read ({' '.join(str(err).split())[:100]}); get it again") from None
    kind = found.get("_class_name") if isinstance(found, dict) else None
    if not isinstance(kind, str):
        raise UserError(f"{folder}: names a custom pipeline; its code is not run, so it cannot be drawn with")
    if not isinstance(known := getattr(diffusers, kind, None), type) or not issubclass(
        known, diffusers.DiffusionPipeline
    ):
        raise UserError(f"{folder}: is a {kind}, which this diffusers does not have; pip install -U diffusers")
    for part, where in parts(found).items():
        if where[0] not in LIBRARIES:
            raise UserError(f"{folder}: its {part} is code of its own ({where[0]}); that is not run, so it is refused")
    return found


def parts(found: dict[str, Any]) -> dict[str, list[str]]:
    """Name -> [library, class] of the parts that are loaded."""
    pairs = {name: where for name, where in found.items() if isinstance(where, list) and len(where) == 2 and where[0]}
    return {name: where for name, where in pairs.items() if name not in LEFT_OUT}


def variant(folder: Path, found: dict[str, Any]) -> str | None:
    """Of the files of weights, for from_pretrained(): None for the plain ones, or fp16, bf16 where some lack these.

    Raises UserError for weights that are there as pickles alone.
    """
    wanted = None
    for part in parts(found):
        names = [p.name for p in (folder / part).iterdir()] if (folder / part).is_dir() else []
        files = [m for name in names if (m := WEIGHTS.fullmatch(name))]
        safe = {m[1] for m in files if m[2] == "safetensors"}
        if files and not safe:
            way = "convert it to safetensors, or get a repository that has them"
            raise UserError(f"{folder / part}: has its weights in a pickle alone ({files[0][0]}), never opened; {way}")
        if safe and None not in safe:
            wanted = wanted or min(name for name in safe if name is not None)
    return wanted


def lora_file(ref: str) -> Path:
    """The safetensors file of a LoRA. Raises UserError if there is none, or more than one to choose from."""
    path = Path(ref).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"--lora {ref}: is no .safetensors file; pickles are not opened")
        return path.resolve()
    folder = path if path.is_dir() else cached(ref, '--include "*.safetensors"')
    if (folder / LORA).is_file():
        return folder / LORA
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        what = f"has {len(files)} .safetensors files" if files else "has no .safetensors file"
        raise UserError(f"--lora {ref}: {what}; name the file of a LoRA itself: {folder}/FILE.safetensors")
    return files[0]
