"""A CLIP model of open_clip, small enough for a test, with fixed random weights."""

import json

import torch
from safetensors.torch import save_file

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def network(seed=0, config=CONFIG):
    """open_clip's own module; every weight of it counts."""
    from open_clip.model import CLIP

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = CLIP(**config)
        for p in found.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return found.eval()


def saved(folder, seed=0):
    """A folder of configuration and weights, as the hub has them; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    save_file(network(seed).state_dict(), folder / "open_clip_model.safetensors")
    return folder
