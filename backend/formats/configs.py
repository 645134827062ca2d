"""What a model file is, as frozen numbers: one dataclass for each network and one for a whole file.

Every number is read from tensor shapes or from the `easel.*` metadata; what a file cannot tell is a published constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Part = Literal["denoiser", "vae", "clip_l", "clip_g", "clip_h", "t5"]
Family = Literal["sdxl", "sdxl_refiner", "sd3", "sd2", "sd1"]
Prediction = Literal["eps", "v", "flow", "edm", "edm_v"]
#: How a part's keys are named in its file: our own modules' names, or a table of backend/checkpoints away from them.
#: "headless": a Hugging Face CLIP without the ``text_model.`` before its keys (SD1 files of 2022).
Layout = Literal["canonical", "open_clip", "headless", "diffusers", "llama.cpp"]
PARTS: tuple[Part, ...] = ("denoiser", "vae", "clip_l", "clip_g", "clip_h", "t5")


@dataclass(frozen=True)
class UNetConfig:
    """The U-Net of SD1, SD2, SDXL and their distillations.

    Attributes:
        channel_mult, res_blocks: one entry a level, from the finest to the coarsest.
        depth_in: transformer blocks after each input residual block, in order (sum(res_blocks) entries).
        depth_mid: transformer blocks in the middle; 0: a single residual block (SSD-1B); None: no middle block (KOALA).
        depth_out: transformer blocks of each output block, in order (sum(res_blocks) + levels entries).
        label_dim: width of the pooled vector; None where the network takes none (SD1, SD2).
        head_dim, heads: exactly one is set: the width of a head (SD2, SDXL: 64) or the number of heads (SD1: 8).
        linear_projection: transformer in and out projections are linear (SD2, SDXL), not 1x1 convolutions (SD1).
    """

    in_channels: int
    out_channels: int
    model_channels: int
    channel_mult: tuple[int, ...]
    res_blocks: tuple[int, ...]
    depth_in: tuple[int, ...]
    depth_mid: int | None
    depth_out: tuple[int, ...]
    context_dim: int
    label_dim: int | None
    head_dim: int | None = 64
    heads: int | None = None
    linear_projection: bool = True
    norm_groups: int = 32


@dataclass(frozen=True)
class MMDiTConfig:
    """The multimodal diffusion transformer of SD3 and SD3.5.

    Attributes:
        pos_embed_side: side of the square table of position embeddings, in patches.
        dual_blocks: so many blocks, from the first on, have a second attention over the image alone (MMDiT-X).
    """

    depth: int
    hidden: int
    heads: int
    in_channels: int
    out_channels: int
    patch_size: int
    context_dim: int
    pooled_dim: int
    pos_embed_side: int
    qk_norm: bool
    dual_blocks: int
    mlp_hidden: int


@dataclass(frozen=True)
class VAEConfig:
    """The image autoencoder. ``res_blocks`` counts the encoder's per level; the decoder has one more."""

    latent_channels: int
    channels: int
    channel_mult: tuple[int, ...]
    res_blocks: int
    quant_conv: bool
    norm_groups: int = 32


@dataclass(frozen=True)
class CLIPConfig:
    """A CLIP text encoder.

    Attributes:
        pad: the id that fills a chunk (49407 for CLIP-L, 0 for CLIP-G).
        cut: so many last layers are not in the file, though clip skip counts them (SD2 as diffusers stores it).
    """

    width: int
    layers: int
    heads: int
    intermediate: int
    vocab_size: int
    positions: int
    projection_dim: int | None
    activation: Literal["quick_gelu", "gelu"]
    bos: int
    eos: int
    pad: int
    cut: int = 0


@dataclass(frozen=True)
class T5Config:
    """A T5 encoder; prompts are padded to ``min_length`` tokens and cut at ``max_length``."""

    width: int
    layers: int
    heads: int
    d_kv: int
    d_ff: int
    vocab_size: int
    min_length: int = 77
    max_length: int = 256


@dataclass(frozen=True)
class TinyDecoderConfig:
    """The tiny decoder of live previews."""

    latent_channels: int
    width: int


@dataclass(frozen=True)
class LatentConstants:
    """Denoiser units are (raw latent - shift) * scale; the factors make a rough RGB preview in [-1, 1].

    Attributes:
        means, deviations: of the raw latent by channel where the model was trained on latents made uniform
            (Playground 2.5): there (raw latent - shift - mean) * scale / deviation. Empty elsewhere.
    """

    channels: int
    scale: float
    shift: float
    rgb_factors: tuple[tuple[float, float, float], ...]
    rgb_bias: tuple[float, float, float]
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()


@dataclass(frozen=True)
class Defaults:
    """What a request's empty fields become for this file; ``shift`` is the flow schedule's, None elsewhere."""

    width: int
    height: int
    steps: int
    cfg_scale: float
    sampler: str
    schedule: str
    shift: float | None


@dataclass(frozen=True)
class PartSource:
    """Where one part of a model lies.

    Attributes:
        paths: the file, or the shards in which the part is stored, in order.
        prefix: what stands before the part's keys there.
        bytes: of its tensors in the file.
        precision: "fp16", "bf16", "fp32", "fp8", "fp8 scaled", "GGUF Q4_K", "mixed" ...
        numbers: bytes in the file of each number format ("F16", "F8_E4M3", "Q4_K" ...), see ``formats/storage.py``.
    """

    paths: tuple[Path, ...]
    prefix: str
    bytes: int
    precision: str
    layout: Layout = "canonical"
    numbers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """What no file can tell: asked once, and the answer remembered for the file by its hash.

    Attributes:
        about: what an answer sets ("variant", "prediction", "latent" ...); see ``backend/formats/answers.py``.
        options: the possibilities, as written for a person.
        assumed: the option that holds until someone answers.
        sentence: the question in words.
        asks: False where nearly every file is as assumed: it may be answered, but nobody needs to be asked.
    """

    about: str
    options: tuple[str, ...]
    assumed: str
    sentence: str
    asks: bool = True


@dataclass(frozen=True)
class CheckpointInfo:
    """All that the header of a checkpoint tells, before any tensor is read; its parts may lie in several files.

    Attributes:
        name: the file's stem.
        size_multiple: picture sides are multiples of it, in pixels.
        variant: as its makers call it: "SDXL base", "SD3.5 Medium" ...
        precision: of the denoiser, as in its ``PartSource``.
        sources: where each part lies; a part that is missing has no entry.
        prediction_source: who says what the denoiser outputs: "key v_pred", "metadata", "sidecar name.yaml", "weights",
            "you", "default".
        companions: parts that lie in files of their own -> the name by which a request asks for that file.
        tokenizer_clip, tokenizer_t5: embedded `tokenizers` JSON; None means the vocabulary that Easel ships.
        notes: sentences for the person, such as what could not be told from the file.
        zero_terminal_snr: the model was trained down to pure noise (marker key `ztsnr`).
        sigma_range: lowest and highest noise level of an EDM model, where the file tells.
        questions: what the file cannot tell.
        refusal: one sentence why this version does not run the file; empty if it does.
    """

    path: Path
    name: str
    family: Family
    variant: str
    prediction: Prediction
    denoiser: UNetConfig | MMDiTConfig
    vae: VAEConfig | None
    clip_l: CLIPConfig | None
    clip_g: CLIPConfig | None
    t5: T5Config | None
    latent: LatentConstants
    defaults: Defaults
    size_multiple: int
    precision: str
    sources: Mapping[Part, PartSource]
    tokenizer_clip: str | None
    tokenizer_t5: str | None
    clip_h: CLIPConfig | None = None
    notes: tuple[str, ...] = ()
    prediction_source: str = "default"
    zero_terminal_snr: bool = False
    sigma_range: tuple[float, float] | None = None
    questions: tuple[Question, ...] = ()
    companions: Mapping[Part, str] = field(default_factory=dict)
    refusal: str = ""


@dataclass(frozen=True)
class VaeInfo:
    """A VAE in a file of its own (models/vae).

    Attributes:
        latent: None: it does not say, so the checkpoint's constants hold.
        made_for: what a person said that it is ("SDXL", "FLUX" ..., see ``vae_files.py``); empty: nobody has.
    """

    path: Path
    name: str
    config: VAEConfig
    latent: LatentConstants | None
    source: PartSource
    notes: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    made_for: str = ""

    @property
    def precision(self) -> str:
        """Its number format."""
        return self.source.precision


@dataclass(frozen=True)
class EncoderInfo:
    """A text encoder in a file of its own (models/text_encoders)."""

    path: Path
    name: str
    part: Part
    config: CLIPConfig | T5Config
    source: PartSource
    notes: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """Its number format."""
        return self.source.precision


@dataclass(frozen=True)
class PreviewInfo:
    """A tiny decoder for live previews (models/previews).

    Attributes:
        offset: how much lower its layers are counted in the file than in our network.
    """

    path: Path
    name: str
    config: TinyDecoderConfig
    source: PartSource
    offset: int = 0


UNKNOWN = "unknown"  # an ``OtherFile`` of no kind that Easel knows


@dataclass(frozen=True)
class OtherFile:
    """A whole file that is no checkpoint and no VAE of a family that this version runs.

    Attributes:
        kind: what it looks like: "LoRA", "ControlNet", "FLUX checkpoint" ...
        belongs_in: the folder under models/ where such files go; empty if there is none.
        sentence: what to tell the person.
        family: what it was made for, as written for a person: "SDXL", "SD3 or SD3.5 Medium" ...; empty: nothing tells.
    """

    kind: str
    belongs_in: str
    sentence: str
    path: Path
    name: str
    family: str = ""
