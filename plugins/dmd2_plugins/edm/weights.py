"""Where the weights of a teacher are: a converted file of one's own, or of the local Hugging Face cache."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmd2_plugins.edm.config import Config, differing, read
from dmd2_plugins.edm.network import unfilled
from dmd2_plugins.edm.presets import PRESETS, Preset
from dmd2cli.core.denoiser import Preconditioned
from dmd2cli.errors import UserError
from dmd2cli.weights import load_weights, read_metadata


def locate(weights: str | None, repo: str | None, file: str | None, revision: str | None) -> Path | None:
    """The file that the options name, if they name one. Raises UserError if they contradict each other."""
    if weights is not None and repo is not None:
        raise UserError("weights and repo exclude each other: name a local file or one of the hub")
    if repo is None and (file is not None or revision is not None):
        raise UserError("file and revision belong to repo: name the repository of the hub as well")
    if repo is None:
        return Path(weights) if weights is not None else None
    if file is None:
        raise UserError(f"repo {repo}: name the file in it as well (file=...)")
    return cached(repo, file, revision)


def cached(repo: str, file: str, revision: str | None) -> Path:
    """A file of the local hub cache. Raises UserError if it is not there: nothing is downloaded unasked."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, revision=revision, local_files_only=True))
    except HFValidationError as err:
        raise UserError(f"repo {repo}: {str(err).splitlines()[0]}") from None
    except LocalEntryNotFoundError:
        asked = f"hf download {repo} {file}" + (f" --revision {revision}" if revision else "")
        raise UserError(f"{repo}/{file}: not in the local hub cache; get it with `{asked}`") from None


def load(path: Path, name: str | None, asked: Preset | None) -> tuple[Preconditioned, Config, dict[str, Any]]:
    """(denoiser, its configuration, the file's details). Raises UserError for a file of another network than asked."""
    if path.suffix == ".pkl":
        out = path.with_suffix(".safetensors")
        raise UserError(f"{path}: is a pickle; make it safetensors with `dmd2 convert {path} -o {out}` and name that")
    if not path.exists() and asked is not None and asked.file is not None:
        raise UserError(f"{path}: no such file; {origin(str(name), asked.file, path)}")
    details = json.loads(read_metadata(path).get("details", "{}"))
    if details.get("family") != "edm":
        raise UserError(f"{path}: not a teacher of the EDM family; make one from a published file with `dmd2 convert`")
    found = read(details.get("config", {}), str(path))
    if asked is not None and (different := differing(found, asked.config)):
        raise UserError(f"{path}: not {name} ({', '.join(different[:3])} differ); {others(found)}")
    if name is not None and (other := details.get("preset")) not in (None, name):
        raise UserError(f"{path}: holds {other}, not {name}; set teacher.preset to {other}")
    config = asked.config if asked is not None else replace(found, dropout=0.0)
    denoiser = unfilled(config)
    load_weights(denoiser, path)
    return denoiser, config, details


def others(found: Config) -> str:
    """What to do with a file of another network."""
    fitting = [name for name, preset in PRESETS.items() if not differing(found, preset.config)]
    return f"set teacher.preset to {' or '.join(fitting)}" if fitting else f"choose the file of {', '.join(PRESETS)}"


def missing(name: str, file: str) -> UserError:
    """What to say when a published teacher is asked for and no weights are named."""
    out = Path(f"{name}.safetensors")
    how = f"{origin(name, file, out)}, then teacher.weights={out}"
    return UserError(f"teacher {name}: its weights are not part of this package; {how}")


def origin(name: str, file: str, out: Path) -> str:
    """Where the weights of a preset come from."""
    return f"{name} is NVIDIA's {file}, published with EDM: `dmd2 convert {file} -o {out}`"
