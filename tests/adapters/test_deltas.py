"""Each kind adds to a weight what lycoris-lora and peft add, and what the papers say in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backend.adapters.formats import parse_adapter
from backend.adapters.places import Places
from tests.adapters.making import numbers

IN, OUT = 24, 32
TOLERANCE = 3e-6  # of the largest number


def layer_of(shape: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "linear": lambda: nn.Linear(IN, OUT),
        "conv1": lambda: nn.Conv2d(IN, OUT, 1),
        "conv3": lambda: nn.Conv2d(IN, OUT, 3, padding=1),
        "norm": lambda: nn.LayerNorm(OUT),
    }[shape]()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


def changed(layer: nn.Module, tensors: dict[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
    """The layer's parameters with an adapter whose tensors are named by their endings; every key must be used."""
    network = nn.ModuleDict({"layer": layer})
    named = {f"layer.{ending}": tensor for ending, tensor in tensors.items()}
    adapter = parse_adapter(named, {}, Places({"denoiser": network}))
    assert adapter.match.matched == adapter.match.total, adapter.match.sentence()
    result = {name: parameter.float().clone() for name, parameter in network.named_parameters()}
    for name, changes in adapter.changes["denoiser"].items():
        own = network.get_parameter(name).float()
        for change in changes:
            change.region(result[name]).add_(change.of(own, strength))
    return {name.removeprefix("layer."): tensor for name, tensor in result.items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    error = ((ours.double() - theirs.double()).abs().max() / theirs.abs().max()).item()
    assert error < TOLERANCE, error


LYCORIS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora linear": ("LoConModule", "linear", {}),
    "locon conv3": ("LoConModule", "conv3", {}),
    "locon conv1": ("LoConModule", "conv1", {}),
    "locon tucker": ("LoConModule", "conv3", {"use_tucker": True}),
    "dora rows": ("LoConModule", "linear", {"weight_decompose": True, "wd_on_out": True}),
    "dora columns": ("LoConModule", "linear", {"weight_decompose": True, "wd_on_out": False}),
    "dora rows conv": ("LoConModule", "conv3", {"weight_decompose": True, "wd_on_out": True}),
    "dora columns conv": ("LoConModule", "conv3", {"weight_decompose": True, "wd_on_out": False}),
    "rs lora": ("LoConModule", "linear", {"rs_lora": True}),
    "loha linear": ("LohaModule", "linear", {}),
    "loha conv3": ("LohaModule", "conv3", {}),
    "loha tucker": ("LohaModule", "conv3", {"use_tucker": True}),
    "loha dora": ("LohaModule", "linear", {"weight_decompose": True}),
    "lokr w2 factored": ("LokrModule", "linear", {"factor": 4}),
    "lokr both factored": ("LokrModule", "linear", {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    "lokr full": ("LokrModule", "linear", {"factor": 4, "full_matrix": True, "lora_dim": 10000}),
    "lokr conv3": ("LokrModule", "conv3", {"factor": 4}),
    "lokr tucker": ("LokrModule", "conv3", {"factor": 4, "use_tucker": True}),
    "lokr dora": ("LokrModule", "linear", {"factor": 4, "weight_decompose": True}),
    "glora linear": ("GLoRAModule", "linear", {}),
    "glora conv3": ("GLoRAModule", "conv3", {}),
    "oft": ("DiagOFTModule", "linear", {"lora_dim": 8}),
    "oft constraint": ("DiagOFTModule", "linear", {"lora_dim": 8, "constraint": 0.01}),
    "oft conv": ("DiagOFTModule", "conv3", {"lora_dim": 8}),
    "boft": ("ButterflyOFTModule", "linear", {"lora_dim": 8}),
    "boft constraint": ("ButterflyOFTModule", "linear", {"lora_dim": 8, "constraint": 0.01}),
    "boft conv": ("ButterflyOFTModule", "conv3", {"lora_dim": 8}),
    "ia3 outputs": ("IA3Module", "linear", {"train_on_input": False}),
    "ia3 inputs": ("IA3Module", "linear", {"train_on_input": True}),
    "ia3 conv outputs": ("IA3Module", "conv3", {"train_on_input": False}),
    "norm": ("NormModule", "norm", {}),
}


def lycoris_module(layer: nn.Module, kind: str, options: dict[str, Any]) -> Any:
    import lycoris.modules

    module = getattr(lycoris.modules, kind)("name", layer, 1.0, **({"lora_dim": 4, "alpha": 2.0} | options))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            # Magnitudes stay near the lengths that they start from; all else is far from its start.
            parameter.copy_(parameter * (1 + 0.2 * noise) if name == "dora_scale" else 0.3 * noise)
    return module


@pytest.mark.oracle
@pytest.mark.parametrize("strength", [1.0, 0.6, -0.5])
@pytest.mark.parametrize("case", LYCORIS)
def test_kind_matches_lycoris(case: str, strength: float):
    kind, shape, options = LYCORIS[case]
    layer = layer_of(shape)
    module = lycoris_module(layer, kind, options)
    tensors = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    x = numbers(2, OUT if shape == "norm" else IN, *((5, 5) if shape.startswith("conv") else ()))
    # Its forward is what is trained; its merging (4.1.3) multiplies LoHa's and LoKr's scale twice.
    module.multiplier, module.org_forward = strength, layer.forward
    want = module.forward(x).detach()
    close(torch.func.functional_call(layer, changed(layer, tensors, strength), (x,)), want)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["OFT", "BOFT"])
def test_rescaled_rotation_matches_lycoris(kind: str):
    layer = layer_of("linear")
    class_name = {"OFT": "DiagOFTModule", "BOFT": "ButterflyOFTModule"}[kind]
    module = lycoris_module(layer, class_name, {"lora_dim": 8, "rescaled": True})
    tensors = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
    assert "rescale" in tensors
    close(changed(layer, tensors)["weight"], module.get_merged_weight(1.0)[0].detach())
    nothing = changed(layer, tensors, 1e-9)["weight"]
    close(nothing, layer.weight)  # LyCORIS keeps OFT's rescaling whole at any strength; ours is continuous


def peft_layer(config: Any, shape: str = "linear") -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    """A layer, the adapter's tensors as PEFT saves them, and the weight that PEFT merges."""
    import peft

    layer = layer_of(shape)
    model = peft.get_peft_model(nn.ModuleDict({"layer": layer}), config)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer.base_layer" not in name:
                noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(parameter * (1 + noise) if "magnitude" in name else noise)
    saved = peft.get_peft_model_state_dict(model)
    tensors = {key.removeprefix("base_model.model.layer."): t.detach().clone() for key, t in saved.items()}
    own = layer_of(shape)
    merged = model.merge_and_unload().layer.weight.detach()
    return own, tensors, merged


#: Class of its configuration, options, shape of the layer. Imported in the test: peft takes seconds.
PEFT: dict[str, tuple[str, dict[str, Any], str]] = {
    "lora": ("LoraConfig", {"r": 4, "lora_alpha": 4}, "linear"),
    "lora conv": ("LoraConfig", {"r": 4, "lora_alpha": 4}, "conv3"),
    "dora": ("LoraConfig", {"r": 4, "lora_alpha": 4, "use_dora": True}, "linear"),
    "dora conv": ("LoraConfig", {"r": 4, "lora_alpha": 4, "use_dora": True}, "conv3"),
    "loha": ("LoHaConfig", {"r": 4, "alpha": 4}, "linear"),
    "lokr": ("LoKrConfig", {"r": 4, "alpha": 4, "decompose_factor": 4}, "linear"),
    "oft": ("OFTConfig", {"oft_block_size": 4, "r": 0}, "linear"),
    "oft, one rotation for all blocks": ("OFTConfig", {"oft_block_size": 4, "r": 0, "block_share": True}, "linear"),
    "oft conv": ("OFTConfig", {"oft_block_size": 4, "r": 0}, "conv3"),
    "ia3": ("IA3Config", {"feedforward_modules": []}, "linear"),
    "ia3 inputs": ("IA3Config", {"feedforward_modules": ["layer"]}, "linear"),
}


@pytest.mark.oracle
@pytest.mark.parametrize("case", PEFT)
def test_kind_matches_peft(case: str):
    import peft

    config, options, shape = PEFT[case]
    layer, tensors, merged = peft_layer(getattr(peft, config)(target_modules=["layer"], **options), shape)
    close(changed(layer, tensors)["weight"], merged)


def test_lora_without_alpha_has_scale_one():
    layer = layer_of("linear")
    up, down = numbers(OUT, 4), numbers(4, IN)
    got = changed(layer, {"lora_up.weight": up, "lora_down.weight": down})["weight"]
    close(got, layer.weight.double() + up.double() @ down.double())


def test_fact_14_alpha_and_rank_are_each_modules_own():
    """Two modules with alphas and ranks of their own in one file: diffusers would give both one scale."""
    network = nn.ModuleDict({"a": layer_of("linear"), "b": layer_of("linear")})
    tensors = {
        "a.lora_up.weight": numbers(OUT, 4),
        "a.lora_down.weight": numbers(4, IN),
        "a.alpha": torch.tensor(1.0),
        "b.lora_up.weight": numbers(OUT, 2),
        "b.lora_down.weight": numbers(2, IN),
        "b.alpha": torch.tensor(3.0),
    }
    changes = parse_adapter(tensors, {}, Places({"denoiser": network})).changes["denoiser"]
    for name, scale in {"a": 0.25, "b": 1.5}.items():
        ((change,),) = [changes[f"{name}.weight"]]
        want = scale * tensors[f"{name}.lora_up.weight"].double() @ tensors[f"{name}.lora_down.weight"].double()
        close(change.of(network[name].weight), want)


def test_lokr_with_both_factors_full_ignores_alpha():
    layer = layer_of("linear")
    w1, w2 = numbers(4, 4), numbers(8, 6)
    got = changed(layer, {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(0.1)})["weight"]
    close(got, layer.weight.double() + torch.kron(w1.double(), w2.double()))


def dora_tensors() -> dict[str, Tensor]:
    return {
        "lora_up.weight": numbers(OUT, 4),
        "lora_down.weight": numbers(4, IN),
        "dora_scale": 1 + numbers(OUT, 1).abs(),
    }


def test_fact_12_dora_takes_the_length_of_weight_plus_delta():
    """Some programs take the length of the weight alone; here the two differ by far."""
    layer, t = layer_of("linear"), dora_tensors()
    weight = layer.weight.double()
    merged = weight + t["lora_up.weight"].double() @ t["lora_down.weight"].double()
    right = merged / merged.norm(dim=1, keepdim=True) * t["dora_scale"].double()
    wrong = merged / weight.norm(dim=1, keepdim=True) * t["dora_scale"].double()
    got = changed(layer, t)["weight"]
    close(got, right)
    assert (got - wrong).abs().mean() > 0.1 * wrong.std()


def test_dora_strength_multiplies_the_ratio_of_lengths():
    layer, t = layer_of("linear"), dora_tensors()
    merged = layer.weight.double() + t["lora_up.weight"].double() @ t["lora_down.weight"].double()
    ratio = t["dora_scale"].double() / merged.norm(dim=1, keepdim=True)
    close(changed(layer, t, 0.3)["weight"], merged * (1 + 0.3 * (ratio - 1)))


def test_full_bias_and_replacement():
    layer = layer_of("linear")
    difference, bias, other = numbers(OUT, IN), numbers(OUT), numbers(OUT, IN, seed=9)
    got = changed(layer, {"diff": difference, "diff_b": bias}, 0.5)
    close(got["weight"], layer.weight + 0.5 * difference)
    close(got["bias"], layer.bias + 0.5 * bias)
    assert torch.allclose(changed(layer, {"set_weight": other})["weight"], other, atol=1e-6)
    close(changed(layer, {"set_weight": other}, 0.25)["weight"], 0.75 * layer.weight + 0.25 * other)


def test_peft_bias_of_the_up_projection_has_the_scale():
    layer = layer_of("linear")
    tensors = {"lora_A.weight": numbers(4, IN), "lora_B.weight": numbers(OUT, 4), "lora_B.bias": numbers(OUT)}
    got = changed(layer, tensors | {"alpha": torch.tensor(2.0)})
    close(got["bias"], layer.bias + 0.5 * tensors["lora_B.bias"])
    close(got["weight"], layer.weight + 0.5 * tensors["lora_B.weight"] @ tensors["lora_A.weight"])


def test_early_glora_files_have_their_pairs_the_other_way_round():
    layer = layer_of("linear")
    a1, a2, b1, b2 = numbers(IN, 4), numbers(4, IN), numbers(OUT, 4), numbers(4, IN, seed=2)
    now = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(2.0)}
    early = {"a1.weight": a2, "a2.weight": a1, "b1.weight": b2, "b2.weight": b1, "alpha": torch.tensor(2.0)}
    close(changed(layer, now)["weight"], layer.weight + 0.5 * (layer.weight @ a1 @ a2 + b1 @ b2))
    close(changed(layer, early)["weight"], changed(layer, now)["weight"])


def test_linear_adapter_fits_a_convolution_of_one_pixel():
    layer = layer_of("conv1")
    up, down = numbers(OUT, 4), numbers(4, IN)
    got = changed(layer, {"lora_up.weight": up, "lora_down.weight": down})["weight"]
    close(got, layer.weight + (up @ down)[:, :, None, None])
