"""Adapters go into the weights and come out to the bit, whatever the number format and wherever the weights lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from backend.adapters.apply import AdapterUse, PatchedWeights, applied
from backend.adapters.formats import parse_adapter
from backend.adapters.places import Places
from backend.checkpoints.load import Arithmetic, load_part
from backend.diffusion.patching import Scope
from backend.errors import BadRequest
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.nn.stored import Encoded, Scratch, store
from tests.adapters.making import lora, lora_delta, numbers
from tests.checkpoints.tiny import write_tiny

_Q = "input_blocks.3.1.transformer_blocks.0.attn1.to_q"
_CLIP = "text_model.encoder.layers.0.mlp.fc1"


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].view(torch.uint8), b[k].view(torch.uint8)) for k in a)


@pytest.fixture
def mapped(tmp_path):
    """A tiny SDXL checkpoint in half precision, loaded as views of its file; and the file."""
    path = tmp_path / "tiny.safetensors"
    write_tiny(path, "sdxl")
    info = detect(read_header(path))
    return {part: load_part(info, part) for part in ("denoiser", "clip_l")}, path


def adapters(modules, *, seeds=(0, 1)):
    places = Places(modules)
    made = []
    for seed in seeds:
        stem = f"lora_unet_{_Q.replace('.', '_')}"
        tensors = {key: t + seed for key, t in lora(stem, (64, 64)).items()}
        tensors |= lora(f"lora_te1_{_CLIP.replace('.', '_')}", (128, 64), rank=2 + seed)
        made.append(parse_adapter(tensors, {}, places, f"adapter {seed}"))
        assert made[-1].match.matched == 4
    return made


def test_weights_come_back_to_the_bit_and_the_mapped_file_is_not_written(mapped):
    modules, path = mapped
    content = path.read_bytes()
    before = {part: bits(module) for part, module in modules.items()}
    address = modules["denoiser"].get_parameter(f"{_Q}.weight").data_ptr()
    first, second = adapters(modules)
    with applied(modules, [AdapterUse(first), AdapterUse(second, 0.5)]):
        weight = modules["denoiser"].get_parameter(f"{_Q}.weight")
        assert weight.dtype == torch.float16
        assert weight.data_ptr() != address
        assert not torch.equal(weight, before["denoiser"][f"{_Q}.weight"])
    assert all(same_bits(bits(module), before[part]) for part, module in modules.items())
    assert modules["denoiser"].get_parameter(f"{_Q}.weight").data_ptr() == address
    assert path.read_bytes() == content


def test_weights_come_back_after_an_exception(mapped):
    modules, _ = mapped
    before = bits(modules["denoiser"])
    with pytest.raises(RuntimeError, match="in the middle"), applied(modules, [AdapterUse(adapters(modules)[0])]):
        raise RuntimeError("in the middle")
    assert same_bits(bits(modules["denoiser"]), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sum_is_computed_in_float32_and_rounded_once(mapped, dtype):
    modules, _ = mapped
    unet = modules["denoiser"].to(dtype)
    own = unet.get_parameter(f"{_Q}.weight").float()
    first, second = adapters(modules)
    (one,), (two,) = (a.changes["denoiser"][f"{_Q}.weight"] for a in (first, second))
    want = (own + one.of(own, 0.7) + two.of(own, -0.2)).to(dtype)
    with applied({"denoiser": unet}, [AdapterUse(first, 0.7), AdapterUse(second, -0.2)]):
        assert torch.equal(unet.get_parameter(f"{_Q}.weight"), want)


def test_each_part_has_its_own_strength(mapped):
    modules, _ = mapped
    adapter = adapters(modules, seeds=(0,))[0]
    before = bits(modules["denoiser"])
    tensors = lora(f"lora_te1_{_CLIP.replace('.', '_')}", (128, 64), rank=2)
    own = modules["clip_l"].get_parameter(f"{_CLIP}.weight").float()
    with applied(modules, [AdapterUse(adapter, 1.0, {"denoiser": 0.0, "clip_l": 0.5})]):
        assert same_bits(bits(modules["denoiser"]), before)
        got = modules["clip_l"].get_parameter(f"{_CLIP}.weight").float()
    want = own + 0.5 * lora_delta(tensors, f"lora_te1_{_CLIP.replace('.', '_')}").float()
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_strength_changes_leave_no_trace(mapped):
    """Any way through strengths ends in the bits of applying the last one alone."""
    modules, _ = mapped
    first, second = adapters(modules)
    unet = modules["denoiser"]
    before = bits(unet)
    weights = PatchedWeights("denoiser", unet)
    weights.use([AdapterUse(first, 0.3)])
    direct = bits(unet)
    weights.use([AdapterUse(first, -1.0), AdapterUse(second, 2.0)])
    weights.use([AdapterUse(second, 0.1)])
    weights.use([AdapterUse(first, 0.3)])
    assert same_bits(bits(unet), direct)
    assert weights.changed == {f"{_Q}.weight"}
    weights.use([])
    assert same_bits(bits(unet), before)
    assert not weights.changed


def test_unchanged_recipes_are_not_computed_again(mapped):
    modules, _ = mapped
    first, _ = adapters(modules)
    weights = PatchedWeights("denoiser", modules["denoiser"])
    weights.use([AdapterUse(first, 0.3)])
    address = modules["denoiser"].get_parameter(f"{_Q}.weight").data_ptr()
    weights.use([AdapterUse(first, 0.3)])
    assert modules["denoiser"].get_parameter(f"{_Q}.weight").data_ptr() == address


def test_nothing_is_left_half_done_when_an_adapter_breaks(mapped):
    modules, _ = mapped
    unet = modules["denoiser"]
    before = bits(unet)
    places = Places(modules)
    name = "input_blocks.3.1.proj_in"
    huge = parse_adapter({f"diffusion_model.{name}.diff": torch.full((64, 64), 1e30)}, {}, places, "huge")
    weights = PatchedWeights("denoiser", unet)
    with pytest.raises(BadRequest, match=f"{name}.weight grows beyond"):
        weights.use([AdapterUse(adapters(modules)[0]), AdapterUse(huge)])
    assert same_bits(bits(unet), before)
    with pytest.raises(BadRequest, match="strength of huge is nan"):
        weights.use([AdapterUse(huge, float("nan"))])


def test_order_of_adapters_that_read_the_weight_does_not_matter(mapped):
    """Rotations and scalings are taken of the checkpoint's weight, not of what another adapter made of it."""
    modules, _ = mapped
    places = Places(modules)
    stem = f"diffusion_model.{_Q}"
    oft = parse_adapter({f"{stem}.oft_blocks": numbers(8, 8, 8), f"{stem}.alpha": torch.tensor(0.0)}, {}, places)
    ia3 = parse_adapter({f"{stem}.weight": numbers(64), f"{stem}.on_input": torch.tensor(1)}, {}, places)
    unet = modules["denoiser"].float()
    results = []
    for uses in ([oft, ia3], [ia3, oft]):
        with applied({"denoiser": unet}, [AdapterUse(a, 0.8) for a in uses]):
            results.append(unet.get_parameter(f"{_Q}.weight").clone())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def stored_network(dtype: torch.dtype) -> tuple[nn.ModuleDict, Tensor]:
    """A linear layer and a table whose weights stay as they are stored, and the layer's numbers."""
    network = nn.ModuleDict({"layer": nn.Linear(16, 8, device="meta"), "table": nn.Embedding(8, 16, device="meta")})
    codes, scratch = numbers(8, 16).to(dtype), Scratch()
    for layer in network.values():
        store(layer, Encoded(codes, (8, 16), torch.tensor(0.5)), torch.float32, scratch)
    network["layer"].bias = nn.Parameter(numbers(8), requires_grad=False)
    return network, codes.float() * 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.int8])
def test_stored_weight_gets_its_changes_as_it_is_decoded(dtype):
    network, own = stored_network(dtype)
    codes = network["layer"].codes.clone()
    tensors = lora("layer", (8, 16)) | lora("table", (8, 16)) | {"layer.diff_b": numbers(8, seed=3)}
    adapter = parse_adapter(tensors, {}, Places({"denoiser": network}))
    assert adapter.match.matched == 5
    x, ids = numbers(3, 16), torch.tensor([[1, 7, 1]])
    before = network["layer"](x), network["table"](ids)
    with torch.inference_mode(), applied({"denoiser": network}, [AdapterUse(adapter, 0.5)]):
        weight = own + 0.5 * lora_delta(tensors, "layer").float()
        bias = numbers(8) + 0.5 * tensors["layer.diff_b"]
        torch.testing.assert_close(network["layer"](x), nn.functional.linear(x, weight, bias))
        table = own + 0.5 * lora_delta(tensors, "table").float()
        torch.testing.assert_close(network["table"](ids), table[ids])
    assert torch.equal(network["layer"](x), before[0])
    assert torch.equal(network["table"](ids), before[1])
    assert torch.equal(network["layer"].codes.view(torch.uint8), codes.view(torch.uint8))


def test_stored_network_with_an_adapter_computes_the_bits_of_the_cast_one(tmp_path):
    """Half precision in low-memory mode: the same picture, and no weight of an adapter's in memory."""
    path = tmp_path / "tiny.safetensors"
    write_tiny(path, "sdxl")
    info = detect(read_header(path))
    cast, stored = (load_part(info, "denoiser", Arithmetic(torch.float32, keep_all=keep)) for keep in (False, True))
    layers = [name for name, layer in cast.named_modules() if isinstance(layer, nn.Linear)]
    tensors = {}
    for name in layers:
        tensors |= lora(f"diffusion_model.{name}", cast.get_submodule(name).weight)
    adapter = parse_adapter(tensors, {}, Places({"denoiser": cast}))
    assert parse_adapter(tensors, {}, Places({"denoiser": stored})).match.matched == len(tensors)
    given = numbers(1, 4, 8, 8), torch.tensor([500.0]), numbers(1, 7, 192), numbers(1, 128 + 6 * 256)
    tensors_before = {n: t.data_ptr() for n, t in [*stored.named_parameters(), *stored.named_buffers()]}
    with torch.inference_mode():
        plain = stored(*given)
        with applied({"denoiser": cast}, [AdapterUse(adapter, 0.7)]):
            want = cast(*given)
        with applied({"denoiser": stored}, [AdapterUse(adapter, 0.7)]):
            assert torch.equal(stored(*given), want)
            assert {n: t.data_ptr() for n, t in [*stored.named_parameters(), *stored.named_buffers()]} == tensors_before
        assert torch.equal(stored(*given), plain)
    assert not torch.equal(want, plain)


def test_stored_weight_that_overflows_is_refused_and_left_as_it_was():
    network, _ = stored_network(torch.float16)
    network["layer"].dtype = torch.float16
    huge = parse_adapter({"layer.diff": torch.full((8, 16), 1e30)}, {}, Places({"denoiser": network}), "huge")
    weights = PatchedWeights("denoiser", network)
    with pytest.raises(BadRequest, match=r"layer.weight grows beyond"):
        weights.use([AdapterUse(huge)])
    assert network["layer"].change is None
    assert not weights.changed


def test_adapter_works_inside_inference_mode_and_the_network_trains_afterwards(mapped):
    modules, _ = mapped
    unet = modules["denoiser"].float()
    with torch.inference_mode():
        weights = PatchedWeights("denoiser", unet)
        weights.use([AdapterUse(adapters(modules)[0])])
    assert not unet.get_parameter(f"{_Q}.weight").is_inference()
    weights.restore()


def test_adapters_with_a_scope_come_and_go_and_are_computed_once(mapped):
    modules, path = mapped
    content = path.read_bytes()
    unet = modules["denoiser"]
    before = bits(unet)
    first, second = adapters(modules)
    window = Scope(end=0.5)
    uses = [AdapterUse(first, 0.3), AdapterUse(second, 2.0, scope=window), AdapterUse(first, 0.3, scope=window)]
    weights = PatchedWeights("denoiser", unet)

    def by_hand(*acting: AdapterUse) -> dict[str, Tensor]:
        with applied({"denoiser": unet}, [replace(use, scope=None) for use in acting]):
            return bits(unet)

    wanted = {(): by_hand(uses[0]), (0,): by_hand(*uses[:2]), (1,): by_hand(uses[0], uses[2]), (0, 1): by_hand(*uses)}
    weights.use(uses)
    addresses: dict[tuple[int, ...], int] = {}
    for acting in [(), (0,), (1,), (0, 1), (0,), (), (1,)]:
        weights.switch(acting)
        assert same_bits(bits(unet), wanted[acting])
        address = unet.get_parameter(f"{_Q}.weight").data_ptr()
        assert addresses.setdefault(acting, address) == address
    weights.use([AdapterUse(second, 2.0)])
    alone = bits(unet)
    weights.use([])
    assert same_bits(alone, by_hand(AdapterUse(second, 2.0)))
    assert same_bits(bits(unet), before)
    assert weights.kept_bytes == 0
    assert path.read_bytes() == content


def test_what_has_no_room_is_computed_again_with_the_same_bits(mapped):
    modules, _ = mapped
    unet = modules["denoiser"]
    before = bits(unet)
    adapter = adapters(modules)[0]
    results = []
    for room in (float("inf"), 0):
        weights = PatchedWeights("denoiser", unet)
        weights.room = room
        weights.use([AdapterUse(adapter, scope=Scope(end=0.5))])
        assert same_bits(bits(unet), before)
        weights.switch({0})
        results.append(bits(unet))
        assert (weights.kept_bytes > 0) == (room > 0)
        weights.restore()
        assert same_bits(bits(unet), before)
    assert same_bits(*results)


def test_a_switch_that_fails_leaves_the_checkpoints_bits(mapped):
    modules, _ = mapped
    unet = modules["denoiser"]
    before = bits(unet)
    name = "input_blocks.3.1.proj_in"
    huge = parse_adapter({f"diffusion_model.{name}.diff": torch.full((64, 64), 1e30)}, {}, Places(modules), "huge")
    weights = PatchedWeights("denoiser", unet)
    weights.use([AdapterUse(adapters(modules)[0]), AdapterUse(huge, scope=Scope(start=0.5))])
    assert not same_bits(bits(unet), before)
    with pytest.raises(BadRequest, match=f"{name}.weight grows beyond"):
        weights.switch({0})
    assert same_bits(bits(unet), before)


def test_text_encoders_know_no_scope(mapped):
    modules, _ = mapped
    adapter = adapters(modules)[0]
    clip = modules["clip_l"]
    with applied({"clip_l": clip}, [AdapterUse(adapter)]):
        whole = bits(clip)
    weights = PatchedWeights("clip_l", clip)
    weights.use([AdapterUse(adapter, scope=Scope(end=0.5))])
    assert same_bits(bits(clip), whole)
    weights.restore()


def test_stored_weight_switches_its_changes():
    network, _ = stored_network(torch.float8_e4m3fn)
    adapter = parse_adapter(lora("layer", (8, 16)), {}, Places({"denoiser": network}))
    x = numbers(3, 16)
    plain = network["layer"](x)
    with applied({"denoiser": network}, [AdapterUse(adapter, 0.5)]):
        changed = network["layer"](x)
    weights = PatchedWeights("denoiser", network)
    weights.use([AdapterUse(adapter, 0.5, scope=Scope(end=0.5))])
    with torch.inference_mode():
        for acting in ((), (0,), (), (0,)):
            weights.switch(acting)
            assert torch.equal(network["layer"](x), changed if acting else plain)
    made = network["layer"].change
    weights.switch(())
    weights.switch((0,))
    assert network["layer"].change is made
    weights.restore()
    assert torch.equal(network["layer"](x), plain)
