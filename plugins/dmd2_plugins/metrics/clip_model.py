"""CLIP models of open_clip: from its list or a configuration on disk, weights from a file or the local hub cache."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from dmd2_plugins.metrics.precision import full_float32
from dmd2cli.cache import sha256
from dmd2cli.errors import UserError, suggest
from dmd2cli.images import to_pil

MODEL, TAG = "ViT-g-14", "laion2b_s12b_b42k"
"""The model of [DMD2], and which of its published weights."""
SIZES = {f"{MODEL}/{TAG}": " (5.47 GB)"}
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""What weights are called in a repository of the hub or a folder, the best first."""
CONFIG = "open_clip_config.json"
TENSORS = {".safetensors", ".bin", ".pt", ".pth"}


@dataclass(frozen=True)
class Asked:
    """A model that was asked for: its configuration, preprocessing, and where its weights are said to be."""

    name: str
    config: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    weights: Path | None = None
    """None: nobody published any under this name."""
    advice: str = "name a file of them: --weights FILE"


@dataclass(frozen=True)
class Clip:
    """A model in float32, frozen, on its device."""

    name: str
    network: nn.Module
    preprocess: Callable[[Any], Tensor]
    """open_clip's own, of a PIL image."""
    tokenize: Any
    """open_clip's tokenizer."""
    own_tokens: bool
    """Whether that is CLIP's own."""
    sha256: str
    device: torch.device

    @torch.no_grad()
    def of_images(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit vectors."""
        pixels = torch.stack([self.preprocess(to_pil(image)) for image in images]).to(self.device)
        with full_float32():
            return self.network.encode_image(pixels, normalize=True).float()  # type: ignore[operator]

    @torch.no_grad()
    def of_tokens(self, tokens: Int64[Tensor, "b length"]) -> Float[Tensor, "b d"]:
        """Unit vectors."""
        with full_float32():
            return self.network.encode_text(tokens.to(self.device), normalize=True).float()  # type: ignore[operator]


@lru_cache(maxsize=2)
def clip(model: str, weights: str | None, device: str) -> Clip:
    """A model in use. model: as of asked(). weights: a file; None: where they usually are.

    Raises UserError if there is no such model, or no weights: nothing is downloaded.
    """
    found = asked(model)
    path = Path(weights).expanduser() if weights is not None else found.weights
    if path is None or not path.is_file():
        place = f"{path}: no such file" if path is not None else "no weights of it are in the local cache"
        raise UserError(f"CLIP model {found.name}: {place}, and nothing is downloaded here; {found.advice}")
    if path.suffix not in TENSORS:
        raise UserError(f"{path}: not a file of weights; expected {', '.join(sorted(TENSORS))}")
    network, where, tokens = filled(found, path), torch.device(device), tokenizer(found)
    name = found.name if weights is None else found.name.partition("/")[0]
    own = "hf_tokenizer_name" not in found.config["text_cfg"]
    return Clip(name, network.to(where), preprocessing(found, network), tokens, own, digest(path), where)


def asked(model: str) -> Asked:
    """NAME or NAME/TAG of open_clip, a configuration .json, or a folder with one and its weights."""
    path = Path(model).expanduser()
    if path.suffix == ".json" or path.is_dir():
        return on_disk(path)
    import open_clip

    name, _, tag = model.partition("/")
    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(f"model: open_clip has no {name!r}{suggest(name, open_clip.list_models())}")
    tag = tag or (TAG if name == MODEL else "")
    found = Asked(name, config, {})
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        some = f"{', '.join(tags[:4])}{', ...' if len(tags) > 4 else ''}"
        which = f"say which weights, {name}/TAG (TAG is {some})" if tags else "none are published"
        return replace(found, advice=f"{which}, or {found.advice}")
    published = open_clip.get_pretrained_cfg(name, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(f"model: {name} has no weights {tag!r}{suggest(tag, tags)}")
    full, gelu = f"{name}/{tag}", {"quick_gelu": True} if published.get("quick_gelu") else {}
    where, advice = place(published, SIZES.get(full, ""))
    return Asked(full, {**config, **gelu}, published, where, advice)


def on_disk(path: Path) -> Asked:
    """A configuration in a file, either with model_cfg and preprocess_cfg or the model's alone; weights beside it."""
    file = path / CONFIG if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        config, preprocess = found.get("model_cfg", found), found.get("preprocess_cfg", {})
        known = {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; name a model of open_clip, or a folder with {CONFIG}") from None
    except (ValueError, AttributeError) as err:
        raise UserError(f"{file}: not a configuration of open_clip ({err})") from None
    if not known:
        raise UserError(f"{file}: not a configuration of open_clip: embed_dim, vision_cfg and text_cfg are expected")
    there = next((file.parent / name for name in FILES if (file.parent / name).is_file()), None)
    return Asked((path if path.is_dir() else path.with_suffix("")).resolve().name, config, preprocess, there)


def place(published: Mapping[str, Any], size: str) -> tuple[Path | None, str]:
    """Where published weights are, in the cache of the hub or in open_clip's own, and what to do if they are not."""
    from huggingface_hub import try_to_load_from_cache

    else_ = "or name a file: --weights FILE"
    if repo := published.get("hf_hub", "").rpartition("/")[0]:
        own = published["hf_hub"].rpartition("/")[2]
        names = [own] if own else FILES
        there = (try_to_load_from_cache(repo, name) for name in names)
        path = next((Path(found) for found in there if isinstance(found, str)), None)
        what = " ".join(names if own else [FILES[-1]])
        return path, f"fetch them once{size}: hf download {repo} {what}, {else_}"
    url = str(published.get("url", ""))
    return Path("~/.cache/clip").expanduser() / url.rpartition("/")[2], f"fetch them once from {url}, {else_}"


def filled(found: Asked, path: Path) -> nn.Module:
    """The network with its weights, in evaluation. Raises UserError for weights of something else."""
    import open_clip
    from open_clip.model import CLIP, CustomTextCLIP

    config = json.loads(json.dumps(dict(found.config)))
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    config["vision_cfg"] |= {"timm_model_pretrained": False} if "timm_model_name" in config["vision_cfg"] else {}
    if "multimodal_cfg" in config or "hf_model_name" in config["text_cfg"]:
        what = "has parts of other libraries, which might be downloaded"
        raise UserError(f"CLIP model {found.name}: {what}; choose one whose parts are all open_clip's")
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = kind(**config)
            open_clip.load_checkpoint(network, str(path), weights_only=True)
    except Exception as err:                               # open_clip raises what it likes
        why = " ".join(str(err).split())[:160]
        raise UserError(f"{path}: not the weights of the CLIP model {found.name} ({why}); {found.advice}") from err
    return network.eval().requires_grad_(False)


def preprocessing(found: Asked, network: Any) -> Callable[[Any], Tensor]:
    """open_clip's own, for the size of the network."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    own = merge_preprocess_dict(asdict(PreprocessCfg()), dict(found.preprocess))
    return image_transform_v2(PreprocessCfg(**{**own, "size": network.visual.image_size}), is_train=False)


def tokenizer(found: Asked) -> Any:
    """open_clip's own for the model. Raises UserError if it is one of the hub that is not on this machine."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = found.config["text_cfg"]
    length, more = text.get("context_length", 77), text.get("tokenizer_kwargs", {})
    if not (name := text.get("hf_tokenizer_name")):
        own = SimpleTokenizer(context_length=length, **more)
        if text.get("vocab_size", own.vocab_size) < own.vocab_size:
            few = f"knows {text['vocab_size']:,} tokens, and CLIP's tokenizer has {own.vocab_size:,}"
            raise UserError(f"CLIP model {found.name}: {few}; it is another tokenizer's model")
        return own
    try:
        mode = {"tokenizer_mode": text.get("tokenizer_mode"), "local_files_only": True}
        return HFTokenizer(name, context_length=length, **mode, **more)
    except Exception as err:
        why = "is not in the local hub cache, and nothing is downloaded here"
        raise UserError(f"CLIP model {found.name}: its tokenizer {name} {why}; hf download {name}") from err


def digest(path: Path) -> str:
    """SHA-256 of a file; the hub's cache calls large files by theirs."""
    name = path.resolve().name
    return name if len(name) == 64 and set(name) <= set("0123456789abcdef") else sha256(path)


def with_prefix(tokenize: Any, texts: Sequence[str], prefix: str) -> Int64[Tensor, "b length"]:
    """Tokens of texts with those of a prefix after the start token, cut to the length; a cut text ends all the same.

    tokenize: CLIP's own tokenizer. As in the release of [DMD2].
    """
    tokens = tokenize(list(texts))
    added = torch.tensor(tokenize.encode(prefix)).expand(len(tokens), -1)
    found = torch.cat([tokens[:, :1], added, tokens[:, 1:]], 1)[:, : tokens.shape[1]]
    found[:, -1] = torch.where(found[:, -1] != 0, tokenize.eot_token_id, found[:, -1])
    return found
