"""diffusers' whole pipelines around the weights of our modules; the text encoders are transformers' own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers, vae_to_diffusers
from backend.formats.configs import CheckpointInfo, CLIPConfig, MMDiTConfig, Part, T5Config, UNetConfig
from tests.oracles.diffusers_networks import diffusers_mmdit, diffusers_unet, diffusers_vae

Models = Mapping[Part, nn.Module]


class OracleTokenizer:
    """What the pipelines call of a transformers tokenizer, on a `tokenizers` JSON: marks, padding, cutting."""

    added_tokens_encoder: Mapping[str, int] = {}

    def __init__(self, tokenizer_json: str, *, begin: int | None, end: int, pad: int, length: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._begin = [] if begin is None else [begin]
        self._end, self._pad, self.model_max_length = end, pad, length

    def tokenize(self, prompt: str) -> list[str]:
        return self._tokenizer.encode(prompt, add_special_tokens=False).tokens

    def __call__(
        self, prompts: str | Sequence[str], *, padding: str, max_length: int | None = None, **_: object
    ) -> SimpleNamespace:
        prompts = [prompts] if isinstance(prompts, str) else prompts
        rows = [
            [*self._begin, *self._tokenizer.encode(prompt, add_special_tokens=False).ids, self._end]
            for prompt in prompts
        ]
        length = cast("int", max_length) if padding == "max_length" else max(map(len, rows))
        assert all(len(row) <= length for row in rows)
        return SimpleNamespace(input_ids=torch.tensor([row + [self._pad] * (length - len(row)) for row in rows]))


def clip_without_projection(config: CLIPConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """CLIP-L as SDXL has it."""
    from transformers import CLIPTextModel

    model = CLIPTextModel(_clip_config(config))
    model.load_state_dict({key.removeprefix("text_model."): tensor for key, tensor in weights.items()})
    return model.eval()


def clip_with_projection(config: CLIPConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """CLIP-G; and CLIP-L as SD3 has it, whose published projection is the identity."""
    from transformers import CLIPTextModelWithProjection

    model = CLIPTextModelWithProjection(_clip_config(config))
    model.load_state_dict(dict(weights))
    return model.eval()


def t5(config: T5Config, weights: Mapping[str, Tensor]) -> nn.Module:
    from transformers import T5Config as TransformersT5Config
    from transformers import T5EncoderModel

    model = T5EncoderModel(
        TransformersT5Config(
            vocab_size=config.vocab_size,
            d_model=config.width,
            d_kv=config.d_kv,
            d_ff=config.d_ff,
            num_layers=config.layers,
            num_heads=config.heads,
            feed_forward_proj="gated-gelu",
        )
    )
    model.load_state_dict(weights | {"encoder.embed_tokens.weight": weights["shared.weight"]})
    return model.eval()


def clip_h_of_sd2(config: CLIPConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """CLIP-H as SD2's folders have it: without its last layer, so that the final norm acts on the one before."""
    last = f"text_model.encoder.layers.{config.layers - 1}."
    kept = {key: t for key, t in weights.items() if not key.startswith((last, "text_projection"))}
    return clip_without_projection(replace(config, layers=config.layers - 1), kept)


def sd1_pipeline(info: CheckpointInfo, models: Models, clip_json: str) -> Any:
    """SD1 with CLIP-L, or SD2 with CLIP-H, eps or v as the checkpoint says."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    assert isinstance(info.denoiser, UNetConfig)
    config = info.clip_l or info.clip_h
    assert config is not None
    unet = diffusers_unet(info.denoiser)
    unet.load_state_dict(unet_to_diffusers(models["denoiser"].state_dict(), info.denoiser))
    if info.clip_l:
        encoder = clip_without_projection(config, models["clip_l"].state_dict())
    else:
        encoder = clip_h_of_sd2(config, models["clip_h"].state_dict())
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        prediction_type="v_prediction" if info.prediction == "v" else "epsilon",
        rescale_betas_zero_snr=info.zero_terminal_snr,
    )  # fmt: skip
    return _quiet(
        StableDiffusionPipeline(
            vae=_vae(info, models),
            text_encoder=cast("Any", encoder),
            tokenizer=cast("Any", _clip_tokenizer(config, clip_json)),
            unet=unet,
            scheduler=scheduler,
            safety_checker=cast("Any", None),
            feature_extractor=cast("Any", None),
            requires_safety_checker=False,
        )
    )


def sdxl_scheduler(info: CheckpointInfo) -> Any:
    """The scheduler that goes with what the checkpoint's denoiser outputs."""
    from diffusers import EDMEulerScheduler, EulerDiscreteScheduler

    if info.prediction in ("edm", "edm_v"):
        low, high = info.sigma_range or (0.002, 80.0)
        is_v = info.prediction == "edm_v"
        return EDMEulerScheduler(
            sigma_min=low, sigma_max=high, sigma_data=1.0 if is_v else 0.5,
            prediction_type="v_prediction" if is_v else "epsilon",
        )  # fmt: skip
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        prediction_type="v_prediction" if info.prediction == "v" else "epsilon",
        rescale_betas_zero_snr=info.zero_terminal_snr,
    )  # fmt: skip


def sdxl_pipeline(info: CheckpointInfo, models: Models, clip_json: str) -> Any:
    from diffusers import StableDiffusionXLPipeline

    assert isinstance(info.denoiser, UNetConfig)
    assert info.clip_l is not None
    assert info.clip_g is not None
    unet = diffusers_unet(info.denoiser)
    unet.load_state_dict(unet_to_diffusers(models["denoiser"].state_dict(), info.denoiser))
    return _quiet(
        StableDiffusionXLPipeline(
            vae=_vae(info, models),
            text_encoder=clip_without_projection(info.clip_l, models["clip_l"].state_dict()),
            text_encoder_2=clip_with_projection(info.clip_g, models["clip_g"].state_dict()),
            tokenizer=cast("Any", _clip_tokenizer(info.clip_l, clip_json)),
            tokenizer_2=cast("Any", _clip_tokenizer(info.clip_g, clip_json)),
            unet=unet,
            scheduler=sdxl_scheduler(info),
            add_watermarker=False,
        )
    )


def sd3_pipeline(info: CheckpointInfo, models: Models, clip_json: str, t5_json: str) -> Any:
    """Its schedule is what it is given: the scheduler does not shift it again."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    assert isinstance(info.denoiser, MMDiTConfig)
    assert info.clip_l is not None
    assert info.clip_g is not None
    assert info.t5 is not None
    transformer = diffusers_mmdit(info.denoiser)
    transformer.load_state_dict(mmdit_to_diffusers(models["denoiser"].state_dict()))
    clip_l = models["clip_l"].state_dict() | {"text_projection.weight": torch.eye(info.clip_l.width)}
    return _quiet(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=_vae(info, models),
            text_encoder=clip_with_projection(info.clip_l, clip_l),
            tokenizer=cast("Any", _clip_tokenizer(info.clip_l, clip_json)),
            text_encoder_2=clip_with_projection(info.clip_g, models["clip_g"].state_dict()),
            tokenizer_2=cast("Any", _clip_tokenizer(info.clip_g, clip_json)),
            text_encoder_3=t5(info.t5, models["t5"].state_dict()),
            tokenizer_3=cast("Any", OracleTokenizer(t5_json, begin=None, end=1, pad=0, length=512)),
        )
    )


def _vae(info: CheckpointInfo, models: Models) -> Any:
    assert info.vae is not None
    vae = diffusers_vae(info.vae, info.latent)
    vae.load_state_dict(vae_to_diffusers(models["vae"].state_dict(), info.vae))
    return vae


def _clip_tokenizer(config: CLIPConfig, clip_json: str) -> OracleTokenizer:
    return OracleTokenizer(clip_json, begin=config.bos, end=config.eos, pad=config.pad, length=config.positions)


def _clip_config(config: CLIPConfig) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.intermediate,
        projection_dim=config.projection_dim or config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.positions,
        hidden_act=config.activation,
        bos_token_id=config.bos,
        eos_token_id=config.eos,
        pad_token_id=config.pad,
    )


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
