"""What docs/extensions and ``easel extension new`` promise authors: the examples run on both families."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from backend.approvals import Approvals
from backend.checkpoints.save import write_tensors
from backend.engine.actions import run_action
from backend.engine.engine import Engine
from backend.errors import BadRequest, ModelCorrupt, ModelUnsupported, NotFound
from backend.events import Planned
from backend.settings import load_settings
from backend.testing.conformance import conformance
from backend.testing.control import write_tiny_control
from tests.engine.conftest import ask
from tests.extending import approve_all, forget_loose_extensions
from webui.new_extension import write_new_extension

FAMILY = {"tiny-xl": "sdxl", "tiny-sd3": "sd3"}
DOCS = Path(__file__).parents[2] / "docs" / "extensions"
PAGES = {
    "ten_lines": DOCS / "README.md",
    "weak_middle": DOCS / "guidance.md",
    "vera": DOCS / "adapter_format.md",
    "tiny_depth": DOCS / "preprocessor.md",
}


def write_example(parent: Path, name: str) -> Path:
    """The extension that a page shows: its first block of TOML and of Python."""
    home = parent / name
    home.mkdir(parents=True)
    page = PAGES[name].read_text(encoding="utf-8")
    for kind, file in (("toml", "extension.toml"), ("python", "hooks.py")):
        block = re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)
        assert block is not None
        (home / file).write_text(block[1])
    return home


@pytest.fixture(scope="module")
def authors(models_dir, tmp_path_factory):
    """An engine with the page's sampler and a newly written extension."""
    data = tmp_path_factory.mktemp("data")
    for name in PAGES:
        write_example(data / "extensions", name)
    write_new_extension(data / "extensions", "film_grain")
    settings = load_settings(data_dir=data, models_dir=models_dir, device="cpu", dtype="float32")
    approve_all(data / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    forget_loose_extensions()


def picture(engine: Engine, request) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)


def test_the_ten_line_sampler_is_eulers_method(authors, checkpoint):
    euler = picture(authors, ask(checkpoint, steps=4))
    ten_lines = picture(authors, ask(checkpoint, steps=4, sampler="ten_lines"))
    assert np.abs(euler - ten_lines).max() <= 1


def test_a_new_extension_changes_the_picture_and_1_does_not(authors, checkpoint):
    def with_amount(amount: float) -> np.ndarray:
        return picture(authors, ask(checkpoint, extensions={"film_grain": {"values": {"amount": amount}}}))

    plain = picture(authors, ask(checkpoint))
    assert np.abs(with_amount(1.0) - plain).max() <= 1
    assert np.abs(with_amount(1.5) - plain).max() > 1


def test_the_guidance_module_steps_away_and_0_does_not(authors, checkpoint):
    def with_scale(scale: float) -> np.ndarray:
        return picture(authors, ask(checkpoint, extensions={"weak_middle": {"values": {"scale": scale}}}))

    plain = picture(authors, ask(checkpoint))
    assert np.array_equal(with_scale(0.0), plain)
    assert not np.array_equal(with_scale(4.0), plain)


LAYERS = {"tiny-xl": "input_blocks.3.1.transformer_blocks.0.attn2.to_k", "tiny-sd3": "joint_blocks.1.x_block.attn.proj"}


def write_vera(path: Path, checkpoint: str, *, rank: int = 4) -> dict[str, torch.Tensor]:
    """A VeRA file for one layer of a tiny checkpoint, and one for a layer that it has not."""
    generator = torch.Generator().manual_seed(5)
    layer = f"base_model.model.{LAYERS[checkpoint]}"
    tensors = {
        "base_model.vera_A": torch.randn(rank, 256, generator=generator),
        "base_model.vera_B": torch.randn(256, rank, generator=generator),
        f"{layer}.vera_lambda_d": torch.rand(rank, generator=generator),
        f"{layer}.vera_lambda_b": torch.rand(SIZES[checkpoint], generator=generator),
        "base_model.model.nowhere.vera_lambda_d": torch.ones(rank),
        "base_model.model.nowhere.vera_lambda_b": torch.ones(8),
    }
    write_tensors(path, tensors, {})
    return tensors


SIZES = {"tiny-xl": 64, "tiny-sd3": 128}


def test_the_adapter_format_acts_says_what_is_left_and_leaves_nothing_behind(authors, models_dir, checkpoint):
    (models_dir / "loras").mkdir(exist_ok=True)
    write_vera(models_dir / "loras" / f"vera-{checkpoint}.safetensors", checkpoint)
    plain = picture(authors, ask(checkpoint))
    done = authors.generate(ask(checkpoint, prompt=f"a fox <lora:vera-{checkpoint}:0.8>"))
    assert any("matched 4 of 6 keys" in note and "nowhere" in note for note in done.notes), done.notes
    assert not np.array_equal(np.asarray(done.pictures[0].image, dtype=np.int16), plain)
    assert np.array_equal(picture(authors, ask(checkpoint, prompt=f"a fox <lora:vera-{checkpoint}:0>")), plain)
    assert np.array_equal(picture(authors, ask(checkpoint)), plain)


def test_a_file_that_no_format_claims_is_refused_as_before(authors, engine, models_dir, checkpoint):
    (models_dir / "loras").mkdir(exist_ok=True)
    write_tensors(models_dir / "loras" / "odd.safetensors", {"a.odd": torch.ones(3), "b.odd": torch.ones(3)}, {})
    with pytest.raises(ModelUnsupported, match="changes nothing in this checkpoint"):
        authors.generate(ask(checkpoint, prompt="a fox <lora:odd:1>"))
    with pytest.raises(ModelUnsupported, match="of no kind that Easel knows"):
        engine.generate(ask(checkpoint, prompt="a fox <lora:odd:1>"))


@pytest.mark.oracle
def test_the_adapter_formats_delta_is_pefts(tmp_path):
    import peft
    from safetensors.torch import save_file

    base = torch.nn.Sequential(torch.nn.Linear(12, 20, bias=False))
    config = peft.VeraConfig(r=4, target_modules=["0"], save_projection=True, d_initial=0.3)
    model = peft.get_peft_model(base, config)
    layer = model.base_model.model[0]
    layer.vera_lambda_b["default"].data = torch.rand(20)
    save_file(peft.get_peft_model_state_dict(model), tmp_path / "vera.safetensors")
    space: dict = {}
    exec((write_example(tmp_path, "vera") / "hooks.py").read_text(), space)  # noqa: S102 - the page's own code
    tensors = load_file(tmp_path / "vera.safetensors")
    (module,) = space["modules"]({key: tuple(t.shape) for key, t in tensors.items()}, {})
    ours = module.delta(base[0].weight.data, {role: tensors[key] for role, key in module.keys.items()}, 1.0)
    torch.testing.assert_close(ours, layer.get_delta_weight("default").detach(), rtol=1e-5, atol=1e-6)


def depth_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"first.weight": (4, 3, 3, 3), "first.bias": (4,), "last.weight": (1, 4, 3, 3), "last.bias": (1,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture
def depth_file(models_dir) -> Path:
    path = models_dir / "depth_maps" / "small.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_tensors(path, depth_tensors(), {})
    return path


def unit(**fields):
    values = {"preprocessor": "tiny_depth", "pixel_perfect": True, "options": {"file": "small"}, **fields}
    return {"controlnet": {"version": 1, "values": values}}


def test_the_preprocessor_with_weights_serves_preview_and_job_and_its_network_leaves(authors, depth_file, checkpoint):
    photo = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1))
    image = Image.fromarray((photo * 255).round().to(torch.uint8).numpy())
    picture_hash = authors.inputs.store_image(image)
    request = ask(checkpoint, extensions=unit(picture=picture_hash))
    done = run_action(authors.extensions, authors.inputs, "controlnet", "preview", request)
    t = depth_tensors()
    x = torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1)[None] / 255
    x = torch.conv2d(x, t["first.weight"], t["first.bias"], padding=1).relu()
    wanted = (torch.conv2d(x, t["last.weight"], t["last.bias"], padding=1).sigmoid()[0, 0] * 255).round()
    seen = np.asarray(authors.inputs.load(done.picture), dtype=np.int16)[..., 0]
    assert np.abs(seen - wanted.numpy()).max() <= 1
    assert depth_file.name in {key.name for key in authors.manager.residents}
    control = authors.settings.models_dir / "controlnet" / f"depth-{checkpoint}.safetensors"
    control.parent.mkdir(exist_ok=True)
    write_tiny_control(control, FAMILY[checkpoint])
    asked = ask(checkpoint, extensions=unit(picture=picture_hash, network=control.stem))
    guided = picture(authors, asked)
    assert not np.array_equal(guided, picture(authors, ask(checkpoint)))
    authors.manager.drop_all()
    events: list[object] = []
    again = authors.generate(asked, events.append).pictures[0].image
    assert np.array_equal(np.asarray(again, dtype=np.int16), guided)
    plan = next(event.plan for event in events if isinstance(event, Planned))
    assert any(depth_file.name in part for part in plan.loads)


def test_a_preprocessors_file_that_is_missing_or_cut_is_told_by_name(authors, depth_file, checkpoint):
    picture_hash = authors.inputs.store_image(Image.new("RGB", (64, 64)))

    def preview(**options):
        request = ask(checkpoint, extensions=unit(picture=picture_hash, options=options))
        return run_action(authors.extensions, authors.inputs, "controlnet", "preview", request)

    with pytest.raises(BadRequest, match="has no file"):
        preview()
    with pytest.raises(NotFound, match="Did you mean 'small'"):
        preview(file="smal")
    depth_file.write_bytes(b"x" * 64)
    with pytest.raises(ModelCorrupt, match=r"small\.safetensors"):
        preview(file="small")


@pytest.mark.parametrize("name", PAGES)
def test_every_example_keeps_what_every_extension_promises(name, tmp_path, easel_models):
    conformance(write_example(tmp_path, name), models=easel_models).assert_passed()
