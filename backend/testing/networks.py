"""Tiny configs, random-weight networks and tokenizers of every family: real classes, narrow.

Head widths follow the rule of published files (64 a head), so that a tiny file's config can be read from its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from backend.formats.configs import MMDiTConfig, UNetConfig, VAEConfig
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE

TINY_UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=32,
    channel_mult=(1, 2, 2),
    res_blocks=(1, 1, 1),
    depth_in=(0, 1, 1),
    depth_mid=1,
    depth_out=(1, 1, 1, 1, 0, 0),
    context_dim=192,  # CLIP-L 64 + CLIP-G 128
    label_dim=128 + 6 * 256,  # pooled CLIP-G + six sinusoids
)
TINY_UNET_INPAINT = replace(TINY_UNET, in_channels=9)
TINY_UNET_EDIT = replace(TINY_UNET, in_channels=8)
TINY_UNET_SD1 = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=32,
    channel_mult=(1, 2),
    res_blocks=(2, 2),
    depth_in=(1, 1, 0, 0),
    depth_mid=1,
    depth_out=(0, 0, 0, 1, 1, 1),
    context_dim=64,
    label_dim=None,
    head_dim=None,
    heads=4,
    linear_projection=False,
)
TINY_UNET_SD2 = replace(
    TINY_UNET_SD1, model_channels=64, context_dim=128, head_dim=64, heads=None, linear_projection=True
)
TINY_UNET_REFINER = replace(TINY_UNET, context_dim=128, label_dim=128 + 5 * 256)  # CLIP-G alone; five sinusoids
TINY_MMDIT = MMDiTConfig(
    depth=2,
    hidden=128,
    heads=2,
    in_channels=16,
    out_channels=16,
    patch_size=2,
    context_dim=256,
    pooled_dim=192,  # CLIP-L 64 + CLIP-G 128
    pos_embed_side=24,
    qk_norm=False,
    dual_blocks=0,
    mlp_hidden=512,
)
TINY_MMDIT_X = replace(TINY_MMDIT, qk_norm=True, dual_blocks=1)
TINY_VAE = VAEConfig(
    latent_channels=4, channels=16, channel_mult=(1, 1, 2, 2), res_blocks=1, quant_conv=True, norm_groups=8
)
TINY_VAE_16 = replace(TINY_VAE, latent_channels=16, quant_conv=False)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter and floating-point buffer with reproducible numbers, and set the module for inference.

    Weights keep the size of what passes through; norms scale by about one; nothing is zero, so that every path counts.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(noise / math.sqrt(tensor[0].numel()))
            elif name.endswith("weight"):
                tensor.copy_(1 + 0.1 * noise)
            else:
                tensor.copy_(0.05 * noise)
    return module.eval().requires_grad_(False)


def tiny_unet(config: UNetConfig = TINY_UNET, seed: int = 0) -> UNet:
    """A U-Net with random weights."""
    unet = UNet(config)
    randomise(unet, seed)
    return unet


def tiny_mmdit(config: MMDiTConfig = TINY_MMDIT_X, seed: int = 0) -> MMDiT:
    """An MMDiT with random weights."""
    mmdit = MMDiT(config)
    randomise(mmdit, seed)
    return mmdit


def tiny_vae(config: VAEConfig = TINY_VAE, seed: int = 0) -> VAE:
    """A VAE with random weights; it halves the side as often as a published one."""
    vae = VAE(config)
    randomise(vae, seed)
    return vae


def tiny_clip_tokenizer(size: int = 300) -> str:
    """A `tokenizers` JSON as CLIP's, one token a character (printable ASCII); its last two tokens are begin and end."""
    pieces = [*_characters(), *(f"<unused {n}>" for n in range(size - 2 - len(_characters())))]
    return _tokenizer_json([*pieces, "<|startoftext|>", "<|endoftext|>"], unknown="<|endoftext|>")


def tiny_t5_tokenizer(size: int = 400) -> str:
    """The same characters behind T5's padding, end and unknown tokens."""
    marks = ["<pad>", "</s>", "<unk>"]
    unused = size - len(marks) - len(_characters())
    return _tokenizer_json([*marks, *_characters(), *(f"<unused {n}>" for n in range(unused))], unknown="<unk>")


def _characters() -> list[str]:
    """Printable ASCII, inside a word and at its end."""
    signs = [chr(code) for code in range(0x21, 0x7F)]
    return [*signs, *(sign + "</w>" for sign in signs)]


def _tokenizer_json(pieces: Sequence[str], unknown: str) -> str:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        BPE(vocabulary, [], unk_token=unknown, end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # words and runs of punctuation
    return tokenizer.to_str()
