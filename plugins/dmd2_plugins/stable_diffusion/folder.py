"""Models as diffusers folders: on disk, or in the local hub cache. Nothing is ever downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from dmd2cli.errors import UserError
from dmd2cli.hub import snapshot

SHIPPED = Path(__file__).with_name("configs")
"""Configurations of the published Stable Diffusion 1.5 and SDXL, without weights and tokenizers."""

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
HALF = '--include "*.json" "*.txt" "*.fp16.safetensors"'
"""What of these two is enough: 2.7 and 7 GB."""

FILE = re.compile(r"(?:diffusion_pytorch_model|model|pytorch_model)(?:\.(\w+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")
"""A file of weights and its variant."""

PATHLIKE = re.compile(r"[.~/\\]|.*\.(safetensors|ckpt|pt|pth|bin)$|.*[/\\].*[/\\]|.*\s")
"""A reference that cannot be the name of a repository."""


@dataclass(frozen=True)
class Folder:
    """One folder of parts: unet, vae, text_encoder, tokenizer, scheduler, ..."""

    path: Path
    variant: str | None = None
    """Of the weights' files, such as fp16; None: the plain ones, or what is there."""
    advice: str = "choose a whole diffusers folder"
    """What to do about a part that is missing."""

    @property
    def index(self) -> dict[str, Any]:
        """model_index.json: the pipeline's class, and library and class of each part."""
        return self.json("model_index.json")

    def has(self, part: str) -> bool:
        """Whether the pipeline has such a part."""
        return (self.index.get(part) or [None])[0] is not None

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration."""
        return self.json(f"{part}/{'scheduler_config' if part == 'scheduler' else 'config'}.json")

    def json(self, name: str) -> dict[str, Any]:
        """A file of the folder. Raises UserError if it is not there or is no JSON."""
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{self.path}: has no {name}; {self.advice}") from None
        except ValueError as err:
            raise UserError(f"{self.path / name}: not JSON ({err}); {self.advice}") from None

    def kind(self, part: str) -> Any:
        """A part's class. Raises UserError for one of another library."""
        library, name = self.index.get(part) or (None, "")
        if library not in ("diffusers", "transformers"):
            raise UserError(f"{self.path}: its {part} is of {library}, not of diffusers or transformers; {self.advice}")
        module = import_module(library)
        if found := getattr(module, name, None) or (module.AutoTokenizer if part.startswith("tokenizer") else None):
            return found
        how = f"which this {library} does not have; pip install -U {library}"
        raise UserError(f"{self.path}: its {part} is a {name}, {how}")

    def load(self, part: str) -> Any:
        """A part with its weights, as float32. Raises UserError if it cannot be read."""
        if part.startswith("tokenizer"):
            with readable(self.path / part, self.advice):
                return self.kind(part).from_pretrained(self.path / part, local_files_only=True)
        return load(self.kind(part), self.path / part, self.variant, self.advice)

    def check(self, part: str) -> None:
        """Raise UserError if a part that load() will be asked for is not there."""
        if part.startswith("tokenizer"):
            here = (self.path / part).is_dir()
        else:
            here = self.has(part) and bool(self.weights(part))
        if not here:
            raise UserError(f"{self.path}: has no {part}; {self.advice}")

    def skeleton(self, part: str) -> nn.Module:
        """The same with whatever is in its memory, on the default device."""
        config = self.config(part)
        kind = self.kind(part)
        if kind.__module__.startswith("diffusers"):
            return empty(kind, config)
        return empty(kind, kind.config_class.from_dict(config))

    def weights(self, part: str) -> list[Path]:
        """Files of a part's weights. Raises UserError if there are none."""
        chosen = variant(self.path / part, self.variant, self.advice)
        return sorted(p for p in (self.path / part).iterdir() if (m := FILE.fullmatch(p.name)) and m[1] == chosen)


def find(ref: str, revision: str | None = None, variant: str | None = None) -> Folder | Path:
    """A diffusers folder, or a single file. Raises UserError if there is none: nothing is downloaded."""
    path = Path(ref).expanduser()
    if path.exists() and revision is not None:
        raise UserError(f"revision: belongs to names of the hub, and {ref} is a local path; leave it out")
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        return Folder(path.resolve(), variant)
    if PATHLIKE.match(ref):
        raise UserError(f"{ref}: no such file or folder; name a diffusers folder, a checkpoint, or a model of the hub")
    return Folder(cached(ref, revision), variant, f"get it with `{command(ref, revision)}`")


def cached(name: str, revision: str | None) -> Path:
    """A repository in the local hub cache. Raises UserError if it is not there."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as err:
        raise UserError(f"{name}: no such folder, and no name of the hub either ({str(err).splitlines()[0]})") from None
    if (found := snapshot(name, revision)) is None:
        raise UserError(f"{name}: not in the local hub cache; get it with `{command(name, revision)}`")
    return found


def command(name: str, revision: str | None) -> str:
    """What downloads a repository, or what is needed of it."""
    words = ["hf download", name, f"--revision {revision}" if revision else "", HALF if name in (SD15, SDXL) else ""]
    return " ".join(filter(None, words))


def variant(folder: Path, wanted: str | None, advice: str) -> str | None:
    """The variant of the weights to read: the wanted one, or else the plain one, or else what is there."""
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    found = {m[1] for name in names if (m := FILE.fullmatch(name))}
    if not found:
        raise UserError(f"{folder}: has no weights; {advice}")
    if wanted in found or None in found:
        return wanted if wanted in found else None
    return min(name for name in found if name is not None)


def load(kind: Any, folder: Path, wanted: str | None = None, advice: str = "choose another one") -> nn.Module:
    """A module of diffusers or transformers with its weights, all of them, as float32."""
    options = {"variant": variant(folder, wanted, advice), "local_files_only": True, "output_loading_info": True}
    with readable(folder, advice):
        made, report = kind.from_pretrained(folder, **options)
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"lacks {', '.join(missing[:2])} ({len(missing)} in all)")
        return made.float()


def alone(ref: str, part: str) -> nn.Module:
    """A part that is a folder of its own, or a folder's part: another VAE, TAESD."""
    import diffusers

    found = find(ref)
    if isinstance(found, Path):
        raise UserError(f"{ref}: is a file; name a diffusers folder of a {part}")
    inner = found.path / part
    folder = inner if inner.is_dir() else found.path
    config = Folder(folder, advice=found.advice).json("config.json")
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not hasattr(kind, "decode"):
        raise UserError(f"{ref}: is a {config.get('_class_name')}, no autoencoder; name a diffusers folder of a {part}")
    return load(kind, folder, None, found.advice)


def small(ref: str) -> nn.Module:
    """The same as alone() without weights for a small decoder; TAESD's configuration where it is not there."""
    from diffusers import AutoencoderTiny

    try:
        found = find(ref)
    except UserError:
        found = Path(ref)
    return empty(AutoencoderTiny, found.json("config.json") if isinstance(found, Folder) else {})


def empty(kind: Any, config: Mapping[str, Any] | Any) -> nn.Module:
    """A module of a configuration, its weights not initialised; buffers are."""
    from diffusers.models.modeling_utils import no_init_weights

    with quiet(), no_init_weights():
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


@contextmanager
def readable(path: Path, advice: str) -> Iterator[None]:
    """What the libraries say of files that they cannot read, as one line."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as err:
        why = " ".join(str(err).split())[:200]
        raise UserError(f"{path}: cannot be loaded: {why}; {advice}") from err


@contextmanager
def quiet() -> Iterator[None]:
    """Without bars and advice of the libraries."""
    import diffusers
    import transformers

    logs = [library.utils.logging for library in (diffusers, transformers)]
    levels = [log.get_verbosity() for log in logs]
    bars = [log.is_progress_bar_enabled() for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        yield
    finally:
        for log, level, bar in zip(logs, levels, bars, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()
