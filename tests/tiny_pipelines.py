"""Tiny pipelines of diffusers with fixed random weights and real tokenizers, saved as diffusers folders.

    sd15(folder), sdxl(folder), sd3(folder), pixart(folder), flux(folder) -> folder

Latents are 4 x 8 x 8 and images 3 x 16 x 16. All weights are functions of `seed`.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

WORDS = "a handwritten photo of llama wearing sunglasses zero one two three four five six seven eight nine cat red"
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD15 = TABLE | {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
SDXL = TABLE | {"timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": False}
SET = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
SIZE, GROUPS = 8, 8


@cache
def clip_tokenizer(pad="<|endoftext|>"):
    """Byte pairs learned from WORDS, every byte known, as CLIP's: 77 tokens at most."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    found = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"vocab_size": 700, "initial_alphabet": alphabet, "show_progress": False, "end_of_word_suffix": "</w>"}
    found.train_from_iterator(WORDS.split(), trainers.BpeTrainer(**options))
    model = json.loads(found.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    for token in [*(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]:
        vocab.setdefault(token, len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)


@cache
def t5_tokenizer():
    """A unigram model of WORDS and of their letters."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,'"]
    pieces += [("▁" + word, -2.0) for word in sorted(set(WORDS.split()) - {"a"})]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_text(tokenizer, width=32, projection=None, layers=2):
    """A CLIP text encoder for a tokenizer; with a projection, of the kind that SDXL's second one is."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "projection_dim": projection or width}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    depth = {"num_hidden_layers": layers, "num_attention_heads": 4, "vocab_size": len(tokenizer)}
    found = CLIPTextConfig(**depth, **sizes, **ids)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(found)


def t5_text(tokenizer, width=32):
    """A T5 encoder for a tokenizer."""
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": width, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), **sizes))


def vae(channels=4, **options):
    """Latents (channels, 8, 8) of images (3, 16, 16)."""
    from diffusers import AutoencoderKL

    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(latent_channels=channels, sample_size=2 * SIZE, **blocks, **types, **options)


def tiny_vae(folder, seed=0):
    """What TAESD is to the VAE: an AutoencoderTiny, saved."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    stages = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    AutoencoderTiny(**stages, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).save_pretrained(folder)
    return Path(folder)


def unet(**options):
    """A UNet2DConditionModel of two resolutions, 8 and 4."""
    from diffusers import UNet2DConditionModel

    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": GROUPS, "sample_size": SIZE}
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    types = {"down_block_types": down, "up_block_types": up, "attention_head_dim": 4, "cross_attention_dim": 32}
    return UNet2DConditionModel(**{**blocks, **types, **options})


def sd15(folder, seed=0, prediction="epsilon", zero_snr=False, sub=None):
    """Stable Diffusion 1.5 in small. prediction: epsilon or v_prediction. sub: options of the UNet."""
    from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    options = SD15 | {"prediction_type": prediction}
    scheduler = PNDMScheduler(**options)
    if zero_snr:
        scheduler = DDIMScheduler(**TABLE, **SET, prediction_type=prediction, rescale_betas_zero_snr=True)
    parts = (vae(), clip_text(tokenizer), tokenizer, unet(**(sub or {})), scheduler)
    return saved(StableDiffusionPipeline(*parts, None, None, None, requires_safety_checker=False), folder)


def sdxl(folder, seed=0, prediction="epsilon", zero_snr=False, sub=None, latents=None, pooled=24):
    """SDXL in small: two text encoders of width 32 and `pooled`, size conditions."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(seed)
    one, two = clip_tokenizer(), clip_tokenizer("!")
    heads = {"attention_head_dim": (2, 4), "use_linear_projection": True, "transformer_layers_per_block": (1, 2)}
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    blocks |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    added |= {"projection_class_embeddings_input_dim": pooled + 48}
    scheduler = EulerDiscreteScheduler(**SDXL, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
    net = unet(**heads, **added, **blocks, cross_attention_dim=32 + pooled, **(sub or {}))
    encoders = (clip_text(one), clip_text(two, pooled, pooled), one, two)
    codec = vae(**(latents or {"scaling_factor": 0.13025}))
    pipe = StableDiffusionXLPipeline(codec, *encoders, net, scheduler, add_watermarker=False)
    return saved(pipe, folder)


def sd3(folder, seed=0, t5=True, shift=3.0):
    """SD3 in small: three text encoders (two without t5), flow prediction."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(seed)
    one, two, three = clip_tokenizer(), clip_tokenizer("!"), t5_tokenizer()
    sizes = {"sample_size": SIZE, "patch_size": 2, "in_channels": 4, "out_channels": 4, "pos_embed_max_size": 12}
    width = {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32, "num_layers": 3}
    text = {"joint_attention_dim": 64, "pooled_projection_dim": 24 + 16}
    net = SD3Transformer2DModel(**sizes, **width, **text)
    codec = vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    encoders = (clip_text(one, 24, 24), one, clip_text(two, 16, 16), two)
    last = (t5_text(three, 64), three) if t5 else (None, None)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    return saved(StableDiffusion3Pipeline(net, scheduler, codec, *encoders, *last), folder)


def pixart(folder, seed=0, sigma=False, sized=False):
    """PixArt-alpha in small (sigma: PixArt-sigma): T5 with its mask, and a network that also predicts variances.

    sized: the network reads the size of the image as well, as PixArt-alpha does at 1024 pixels.
    """
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer()
    sizes = {"sample_size": SIZE, "patch_size": 2, "in_channels": 4, "out_channels": 8, "interpolation_scale": 1}
    side = 12 if sized else 8
    width = {"num_attention_heads": 4, "attention_head_dim": side, "cross_attention_dim": 4 * side, "num_layers": 3}
    net = PixArtTransformer2DModel(**sizes, **width, caption_channels=32, use_additional_conditions=sized)
    scheduler = DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    pipe = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return saved(pipe(tokenizer, t5_text(tokenizer), vae(), net, scheduler), folder)


def flux(folder, seed=0, guided=False):
    """FLUX in small: latents packed two by two, rotary positions; guided: it reads a guidance scale."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(seed)
    one, two = clip_tokenizer(), t5_tokenizer()
    width = {"attention_head_dim": 8, "num_attention_heads": 4, "axes_dims_rope": (2, 2, 4)}
    text = {"joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": guided}
    net = FluxTransformer2DModel(in_channels=16, num_layers=2, num_single_layers=2, **width, **text)
    codec = vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return saved(FluxPipeline(scheduler, codec, clip_text(one), one, t5_text(two), two, net), folder)


def saved(pipe, folder):
    """The folder, with the pipeline in it. Weights of norms and biases are random too, so that each one counts."""
    generator = torch.Generator().manual_seed(1)
    for part in pipe.components.values():
        for p in part.parameters() if isinstance(part, torch.nn.Module) else ():
            if p.ndim == 1:
                p.data += 0.05 * torch.randn(p.shape, generator=generator)
    quiet()
    pipe.save_pretrained(folder)
    return Path(folder)


def quiet():
    """No bars and no advice from the libraries."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def folders(made, tmp_path_factory):
    """Name -> folder of a pipeline, made at its first use. made: name -> what saves it into a folder."""
    found = {}

    def folder(name):
        if name not in found:
            found[name] = str(made[name](tmp_path_factory.mktemp(name) / "pipe"))
        return found[name]

    return folder
