"""Every tensor that a network of a configuration has, by canonical key, with its shape: the networks without torch.

So a file can be called incomplete from its header alone, when it is listed and not only when it is loaded. The tests
hold each function against the module's own state dict.
"""

from __future__ import annotations

from itertools import pairwise

from backend.formats.configs import CLIPConfig, MMDiTConfig, T5Config, TinyDecoderConfig, UNetConfig, VAEConfig

Config = UNetConfig | MMDiTConfig | VAEConfig | CLIPConfig | T5Config
Shapes = dict[str, tuple[int, ...]]

_T5_BUCKETS = 32  # of relative distances
_TIMESTEP_WAVES = 256  # MMDiT's sinusoids


def expected(config: Config) -> Shapes:
    """Canonical keys and shapes of the network."""
    match config:
        case UNetConfig():
            return _unet(config)
        case MMDiTConfig():
            return _mmdit(config)
        case VAEConfig():
            return _vae(config)
        case CLIPConfig():
            return _clip(config)
        case T5Config():
            return _t5(config)


def expected_open_clip(config: CLIPConfig) -> Shapes:
    """A CLIP tower's keys and shapes in open_clip naming: q, k and v as one matrix, the projection as ``x @ P``."""
    width = config.width
    shapes: Shapes = {
        "token_embedding.weight": (config.vocab_size, width),
        "positional_embedding": (config.positions, width),
    }
    for index in range(config.layers):
        block = f"transformer.resblocks.{index}"
        _norm(shapes, f"{block}.ln_1", width)
        shapes[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        shapes[f"{block}.attn.in_proj_bias"] = (3 * width,)
        _linear(shapes, f"{block}.attn.out_proj", width, width)
        _norm(shapes, f"{block}.ln_2", width)
        _linear(shapes, f"{block}.mlp.c_fc", width, config.intermediate)
        _linear(shapes, f"{block}.mlp.c_proj", config.intermediate, width)
    _norm(shapes, "ln_final", width)
    if config.projection_dim is not None:
        shapes["text_projection"] = (width, config.projection_dim)
    return shapes


def expected_tiny_decoder(config: TinyDecoderConfig) -> Shapes:
    """The preview decoder's keys and shapes: three stages of three blocks and an upsampling, one block, the image."""
    width = config.width
    shapes: Shapes = {"1.weight": (width, config.latent_channels, 3, 3), "1.bias": (width,)}
    for block in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        for layer in (0, 2, 4):
            shapes[f"{block}.conv.{layer}.weight"] = (width, width, 3, 3)
            shapes[f"{block}.conv.{layer}.bias"] = (width,)
    shapes |= {f"{layer}.weight": (width, width, 3, 3) for layer in (7, 12, 17)}
    return shapes | {"19.weight": (3, width, 3, 3), "19.bias": (3,)}


def _unet(config: UNetConfig) -> Shapes:
    shapes: Shapes = {}
    width = config.model_channels
    _linear(shapes, "time_embed.0", width, 4 * width)
    _linear(shapes, "time_embed.2", 4 * width, 4 * width)
    if config.label_dim is not None:
        _linear(shapes, "label_emb.0.0", config.label_dim, 4 * width)
        _linear(shapes, "label_emb.0.2", 4 * width, 4 * width)

    levels = len(config.channel_mult)
    _conv(shapes, "input_blocks.0.0", config.in_channels, width, 3)
    channels, skips, block, depths = width, [width], 1, iter(config.depth_in)
    for level, (mult, blocks) in enumerate(zip(config.channel_mult, config.res_blocks, strict=True)):
        for _ in range(blocks):
            _residual(shapes, config, f"input_blocks.{block}", channels, mult * width, next(depths))
            channels, block = mult * width, block + 1
            skips.append(channels)
        if level < levels - 1:
            _conv(shapes, f"input_blocks.{block}.0.op", channels, channels, 3)
            block += 1
            skips.append(channels)

    if config.depth_mid is not None:
        _residual(shapes, config, "middle_block", channels, channels, config.depth_mid)
        if config.depth_mid:
            _unet_resnet(shapes, "middle_block.2", channels, channels, 4 * width)

    block, depths = 0, iter(config.depth_out)
    for level in reversed(range(levels)):
        target = config.channel_mult[level] * width
        for place in range(config.res_blocks[level] + 1):
            depth = next(depths)
            _residual(shapes, config, f"output_blocks.{block}", channels + skips.pop(), target, depth)
            if level > 0 and place == config.res_blocks[level]:
                _conv(shapes, f"output_blocks.{block}.{2 if depth else 1}.conv", target, target, 3)
            channels, block = target, block + 1
    _norm(shapes, "out.0", channels)
    _conv(shapes, "out.2", channels, config.out_channels, 3)
    return shapes


def _residual(shapes: Shapes, config: UNetConfig, name: str, wide_in: int, wide_out: int, depth: int) -> None:
    """A residual block, and transformer blocks behind it unless ``depth`` is 0."""
    _unet_resnet(shapes, f"{name}.0", wide_in, wide_out, 4 * config.model_channels)
    if depth:
        _spatial_transformer(shapes, config, f"{name}.1", wide_out, depth)


def _unet_resnet(shapes: Shapes, name: str, wide_in: int, wide_out: int, emb: int) -> None:
    _norm(shapes, f"{name}.in_layers.0", wide_in)
    _conv(shapes, f"{name}.in_layers.2", wide_in, wide_out, 3)
    _linear(shapes, f"{name}.emb_layers.1", emb, wide_out)
    _norm(shapes, f"{name}.out_layers.0", wide_out)
    _conv(shapes, f"{name}.out_layers.3", wide_out, wide_out, 3)
    if wide_in != wide_out:
        _conv(shapes, f"{name}.skip_connection", wide_in, wide_out, 1)


def _spatial_transformer(shapes: Shapes, config: UNetConfig, name: str, width: int, depth: int) -> None:
    _norm(shapes, f"{name}.norm", width)
    for projection in ("proj_in", "proj_out"):
        if config.linear_projection:
            _linear(shapes, f"{name}.{projection}", width, width)
        else:
            _conv(shapes, f"{name}.{projection}", width, width, 1)
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, context in (("attn1", width), ("attn2", config.context_dim)):
            shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
            shapes[f"{block}.{attention}.to_k.weight"] = (width, context)
            shapes[f"{block}.{attention}.to_v.weight"] = (width, context)
            _linear(shapes, f"{block}.{attention}.to_out.0", width, width)
        _linear(shapes, f"{block}.ff.net.0.proj", width, 8 * width)
        _linear(shapes, f"{block}.ff.net.2", 4 * width, width)
        for norm in ("norm1", "norm2", "norm3"):
            _norm(shapes, f"{block}.{norm}", width)


def _mmdit(config: MMDiTConfig) -> Shapes:
    hidden, patch = config.hidden, config.patch_size
    shapes: Shapes = {"pos_embed": (1, config.pos_embed_side**2, hidden)}
    _conv(shapes, "x_embedder.proj", config.in_channels, hidden, patch)
    for name, width in (("t_embedder", _TIMESTEP_WAVES), ("y_embedder", config.pooled_dim)):
        _linear(shapes, f"{name}.mlp.0", width, hidden)
        _linear(shapes, f"{name}.mlp.2", hidden, hidden)
    _linear(shapes, "context_embedder", config.context_dim, hidden)
    for index in range(config.depth):
        last, dual = index == config.depth - 1, index < config.dual_blocks
        block = f"joint_blocks.{index}"
        _joint_half(shapes, config, f"{block}.context_block", parts=2 if last else 6)
        _joint_half(shapes, config, f"{block}.x_block", parts=9 if dual else 6)
        if dual:
            _attention(shapes, config, f"{block}.x_block.attn2", has_output=True)
    _linear(shapes, "final_layer.linear", hidden, patch**2 * config.out_channels)
    _linear(shapes, "final_layer.adaLN_modulation.1", hidden, 2 * hidden)
    return shapes


def _joint_half(shapes: Shapes, config: MMDiTConfig, name: str, *, parts: int) -> None:
    """``parts``: vectors of the modulation; two where the tokens are only attended to."""
    carries_on = parts > 2
    _attention(shapes, config, f"{name}.attn", has_output=carries_on)
    if carries_on:
        _linear(shapes, f"{name}.mlp.fc1", config.hidden, config.mlp_hidden)
        _linear(shapes, f"{name}.mlp.fc2", config.mlp_hidden, config.hidden)
    _linear(shapes, f"{name}.adaLN_modulation.1", config.hidden, parts * config.hidden)


def _attention(shapes: Shapes, config: MMDiTConfig, name: str, *, has_output: bool) -> None:
    _linear(shapes, f"{name}.qkv", config.hidden, 3 * config.hidden)
    if config.qk_norm:
        shapes[f"{name}.ln_q.weight"] = shapes[f"{name}.ln_k.weight"] = (config.hidden // config.heads,)
    if has_output:
        _linear(shapes, f"{name}.proj", config.hidden, config.hidden)


def _vae(config: VAEConfig) -> Shapes:
    shapes: Shapes = {}
    latent, widths = config.latent_channels, [config.channels * mult for mult in config.channel_mult]
    _conv(shapes, "encoder.conv_in", 3, config.channels, 3)
    for level, (start, width) in enumerate(pairwise([config.channels, *widths])):
        _vae_level(shapes, f"encoder.down.{level}", start, width, config.res_blocks)
        if level < len(widths) - 1:
            _conv(shapes, f"encoder.down.{level}.downsample.conv", width, width, 3)
    _conv(shapes, "encoder.conv_out", widths[-1], 2 * latent, 3)
    _conv(shapes, "decoder.conv_in", latent, widths[-1], 3)
    for level, (start, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
        _vae_level(shapes, f"decoder.up.{level}", start, width, config.res_blocks + 1)
        if level > 0:
            _conv(shapes, f"decoder.up.{level}.upsample.conv", width, width, 3)
    _conv(shapes, "decoder.conv_out", widths[0], 3, 3)
    for half, last in (("encoder", widths[-1]), ("decoder", widths[0])):
        _vae_middle(shapes, f"{half}.mid", widths[-1])
        _norm(shapes, f"{half}.norm_out", last)
    if config.quant_conv:
        _conv(shapes, "quant_conv", 2 * latent, 2 * latent, 1)
        _conv(shapes, "post_quant_conv", latent, latent, 1)
    return shapes


def _vae_level(shapes: Shapes, name: str, start: int, width: int, blocks: int) -> None:
    for index, pair in enumerate(pairwise([start, *[width] * blocks])):
        _vae_resnet(shapes, f"{name}.block.{index}", *pair)


def _vae_middle(shapes: Shapes, name: str, width: int) -> None:
    _vae_resnet(shapes, f"{name}.block_1", width, width)
    _vae_resnet(shapes, f"{name}.block_2", width, width)
    _norm(shapes, f"{name}.attn_1.norm", width)
    for projection in ("q", "k", "v", "proj_out"):
        _conv(shapes, f"{name}.attn_1.{projection}", width, width, 1)


def _vae_resnet(shapes: Shapes, name: str, wide_in: int, wide_out: int) -> None:
    _norm(shapes, f"{name}.norm1", wide_in)
    _conv(shapes, f"{name}.conv1", wide_in, wide_out, 3)
    _norm(shapes, f"{name}.norm2", wide_out)
    _conv(shapes, f"{name}.conv2", wide_out, wide_out, 3)
    if wide_in != wide_out:
        _conv(shapes, f"{name}.nin_shortcut", wide_in, wide_out, 1)


def _clip(config: CLIPConfig) -> Shapes:
    width = config.width
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (config.vocab_size, width),
        "text_model.embeddings.position_embedding.weight": (config.positions, width),
    }
    for index in range(config.layers):
        layer = f"text_model.encoder.layers.{index}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(shapes, f"{layer}.self_attn.{projection}", width, width)
        _norm(shapes, f"{layer}.layer_norm1", width)
        _linear(shapes, f"{layer}.mlp.fc1", width, config.intermediate)
        _linear(shapes, f"{layer}.mlp.fc2", config.intermediate, width)
        _norm(shapes, f"{layer}.layer_norm2", width)
    _norm(shapes, "text_model.final_layer_norm", width)
    if config.projection_dim is not None:
        shapes["text_projection.weight"] = (config.projection_dim, width)
    return shapes


def _t5(config: T5Config) -> Shapes:
    width, inner = config.width, config.heads * config.d_kv
    shapes: Shapes = {"shared.weight": (config.vocab_size, width), "encoder.final_layer_norm.weight": (width,)}
    for index in range(config.layers):
        attention, ff = (f"encoder.block.{index}.layer.{n}" for n in range(2))
        for name in "qkv":
            shapes[f"{attention}.SelfAttention.{name}.weight"] = (inner, width)
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        if index == 0:
            shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (_T5_BUCKETS, config.heads)
        shapes[f"{ff}.DenseReluDense.wi_0.weight"] = shapes[f"{ff}.DenseReluDense.wi_1.weight"] = (config.d_ff, width)
        shapes[f"{ff}.DenseReluDense.wo.weight"] = (width, config.d_ff)
        shapes[f"{attention}.layer_norm.weight"] = shapes[f"{ff}.layer_norm.weight"] = (width,)
    return shapes


def _conv(shapes: Shapes, name: str, wide_in: int, wide_out: int, kernel: int) -> None:
    shapes[f"{name}.weight"] = (wide_out, wide_in, kernel, kernel)
    shapes[f"{name}.bias"] = (wide_out,)


def _linear(shapes: Shapes, name: str, wide_in: int, wide_out: int) -> None:
    shapes[f"{name}.weight"] = (wide_out, wide_in)
    shapes[f"{name}.bias"] = (wide_out,)


def _norm(shapes: Shapes, name: str, width: int) -> None:
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
