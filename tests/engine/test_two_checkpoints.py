"""Whole orders with a refiner, an inpainting or an instruct-pix2pix checkpoint: from request to bytes and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.errors import BadRequest, ModelUnsupported, NotFound
from backend.events import JobEvent, Planned, Step
from backend.records.metadata import parse_parameters, read_picture
from backend.records.outputs import Outputs
from backend.request import GenerationRequest, parse_request, request_to_json
from backend.settings import load_settings
from tests import builders
from tests.engine.conftest import ask, mask_bytes, picture_bytes

Store = Callable[[bytes], str]
SD1_EDIT = replace(builders.TINY_UNET_SD1, in_channels=8)
SD1_INPAINT = replace(builders.TINY_UNET_SD1, in_channels=9)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("two")
    (folder / "checkpoints").mkdir()
    for name, family, seed, denoiser in [
        ("base", "sdxl", 0, None), ("other", "sdxl", 3, None), ("refiner", "sdxl_refiner", 5, None),
        ("sd3", "sd3", 0, None), ("sd1", "sd1", 0, None), ("inpaint", "sdxl", 0, builders.TINY_UNET_INPAINT),
        ("edit", "sdxl", 0, builders.TINY_UNET_EDIT), ("sd1-inpaint", "sd1", 0, SD1_INPAINT),
        ("sd1-edit", "sd1", 0, SD1_EDIT),
    ]:  # fmt: skip
        path = folder / "checkpoints" / f"{name}.safetensors"
        builders.tiny_checkpoint(path, family, seed, denoiser)  # type: ignore[arg-type]
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu", dtype="float32"))


@pytest.fixture
def stored(engine: Engine) -> Store:
    return lambda data: engine.inputs.store(data).sha256


def array(engine: Engine, request: GenerationRequest) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, np.int16)


@pytest.mark.parametrize(
    ("checkpoint", "fields"),
    [
        ("base", {"refiner": "refiner", "refiner_switch": 0.6, "aesthetic_score": 7.5}),
        ("base", {"refiner": "other", "refiner_switch": 0.6}),
        ("base", {"refiner": "inpaint", "refiner_switch": 0.6}),
        ("refiner", {"init_image": "", "denoise": 0.5, "negative_aesthetic_score": 1.0}),
        ("inpaint", {}),
        ("inpaint", {"init_image": ""}),
        ("inpaint", {"init_image": "", "mask": "", "refiner": "base"}),
        ("edit", {"init_image": "", "image_cfg_scale": 2.0, "denoise": 1.0}),
        ("edit", {"init_image": "", "mask": "", "refiner": "refiner"}),
        ("sd1-inpaint", {"init_image": "", "mask": ""}),
        ("sd1-edit", {"init_image": "", "image_cfg_scale": 1.2, "denoise": 1.0}),
    ],
)
def test_a_picture_is_made_again_from_its_metadata(
    engine: Engine, stored: Store, tmp_path: Path, checkpoint: str, fields: dict[str, object]
) -> None:
    pictures = {"init_image": stored(picture_bytes()), "mask": stored(mask_bytes((8, 8, 40, 40)))}
    fields = {name: pictures.get(name, value) for name, value in fields.items()}
    result = engine.generate(ask(checkpoint, steps=5, batch_size=2, **fields), outputs=Outputs(tmp_path))
    paths = [picture.path for picture in result.pictures]
    assert paths[0] is not None
    info = read_picture(paths[0].read_bytes())
    assert info.request == request_to_json(result.request)
    first = paths[0].read_bytes()
    engine.manager.drop_all()
    again = engine.generate(parse_request(info.request), outputs=Outputs(tmp_path)).pictures[0]
    assert again.path is not None
    assert again.path.read_bytes() == first
    told = parse_parameters(result.pictures[0].parameters)
    assert {name: told[name] for name in fields if name not in pictures} == {
        name: value for name, value in fields.items() if name not in pictures
    }


def test_a_job_with_a_refiner_is_one_job(engine: Engine) -> None:
    """One plan of both, one row of steps with previews, both in the metadata, one in memory at a time if need be."""
    engine.manager.drop_all()
    events: list[JobEvent] = []
    request = ask("base", steps=5, refiner="refiner", refiner_switch=0.6, prompt="told once", batch_count=2)
    result = engine.generate(request, events.append)
    (plan,) = [event.plan for event in events if isinstance(event, Planned)]
    assert [each.split(" (")[0] for each in plan.loads] == [
        "base: CLIP-L", "base: CLIP-G", "refiner: CLIP-G", "base: denoiser", "refiner: denoiser", "base: VAE",
    ]  # fmt: skip
    assert plan.model_calls == 2 * 2 * 5
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.step for step in steps] == [1, 2, 3, 4, 5] * 2
    assert all(step.preview for step in steps)
    hashes = [engine.catalog.files.model_hash(engine.catalog.checkpoint(name).path) for name in ("base", "refiner")]
    assert f"Model hash: {hashes[0]}" in result.pictures[0].parameters
    assert f"Refiner: refiner [{hashes[1]}], Refiner switch at: 0.6" in result.pictures[0].parameters
    again = engine.generate(request)
    assert again.plan.loads == ()
    assert again.plan.seconds is not None


def test_base_and_refiner_need_not_fit_into_memory_together(engine: Engine) -> None:
    request = ask("base", steps=5, refiner="refiner", refiner_switch=0.6, batch_count=2)
    whole = array(engine, request)
    parts = [engine.manager.key(engine.catalog.checkpoint(name), "denoiser").bytes for name in ("base", "refiner")]
    budget = max(parts) + 1
    assert budget < sum(parts)
    small = Engine(engine.settings)
    small.policy = replace(small.policy, budget_bytes=budget)
    small.manager.policy = small.policy
    assert (array(small, request) == whole).all()
    assert len([key for key in small.manager.residents if key.part == "denoiser"]) <= 1


def test_a_refiner_changes_the_picture_and_its_share_and_score_count(engine: Engine) -> None:
    def made(**fields: object) -> bytes:
        return array(engine, ask("base", steps=6, **fields)).tobytes()

    kinds = [
        made(), made(refiner="refiner", refiner_switch=0.3), made(refiner="refiner", refiner_switch=0.8),
        made(refiner="refiner", refiner_switch=0.8, aesthetic_score=1.0),
        made(refiner="refiner", refiner_switch=0.8, negative_aesthetic_score=9.0), made(refiner="other"),
    ]  # fmt: skip
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(("switch", "idle", "calls"), [(1.0, "refiner", 4), (0.0, "base", 4)])
def test_a_checkpoint_that_makes_no_step_is_said_and_not_loaded(
    engine: Engine, switch: float, idle: str, calls: int
) -> None:
    engine.manager.drop_all()
    result = engine.generate(ask("base", refiner="refiner", refiner_switch=switch))
    assert any(note.startswith(f"{idle} makes none of the steps") for note in result.notes)
    assert result.plan.model_calls == calls
    assert f"{idle}: denoiser" not in " ".join(map(str, engine.manager.residents))


@pytest.mark.parametrize(
    ("checkpoint", "refiner", "error", "words"),
    [
        ("base", "sd3", ModelUnsupported, "sd3 .* has another latent space than base"),
        ("sd3", "refiner", ModelUnsupported, "refiner .* has another latent space than sd3"),
        ("base", "edit", ModelUnsupported, "edit .* cannot take over"),
        ("base", "refinr", NotFound, "refiner"),
    ],
)
def test_a_refiner_that_cannot_go_on_is_refused_by_name(
    engine: Engine, checkpoint: str, refiner: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        engine.generate(ask(checkpoint, refiner=refiner))
    assert getattr(caught.value, "field", None) == "refiner"


def test_an_instruct_pix2pix_model_needs_a_picture(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="changes a picture, and there is none") as caught:
        engine.generate(ask("edit"))
    assert caught.value.field == "init_image"


@pytest.mark.parametrize(
    ("fields", "calls"),
    [({}, 12), ({"image_cfg_scale": 1.0}, 8), ({"cfg_scale": 1.0}, 12), ({"cfg_scale": 1.0, "image_cfg_scale": 1.0}, 4),
     ({"guidance_start": 0.5}, 8), ({"prompt": "a AND b"}, 16)],
)  # fmt: skip
def test_the_plan_counts_the_picture_as_a_branch(
    engine: Engine, stored: Store, fields: dict[str, object], calls: int
) -> None:
    request = ask("edit", init_image=stored(picture_bytes()), denoise=1.0, steps=4, **fields)
    assert engine.generate(request).plan.model_calls == calls


def test_both_ways_of_batching_agree_on_three_branches(engine: Engine, stored: Store) -> None:
    other = Engine(engine.settings.model_copy(update={"guidance_batching": "two passes"}))
    request = ask("edit", init_image=stored(picture_bytes()), denoise=1.0, negative_prompt="rain")
    assert np.abs(array(engine, request) - array(other, request)).max() <= 1


def test_three_branches_count_as_three_where_the_size_decides(engine: Engine) -> None:
    large = ask("edit", width=896, height=896)
    assert (engine.batching(large, branches=2), engine.batching(large, branches=3)) == ("batched", "two passes")


@pytest.mark.parametrize("checkpoint", ["inpaint", "sd1-inpaint", "edit"])
@pytest.mark.parametrize("area", ["whole picture", "only masked"])
def test_unmasked_pixels_equal_the_input(engine: Engine, stored: Store, checkpoint: str, area: str) -> None:
    init, box, blur = picture_bytes(), (20, 20, 40, 40), 2
    request = ask(checkpoint, init_image=stored(init), mask=stored(mask_bytes(box)), mask_blur=blur, denoise=1.0,
                  inpaint_area=area, masked_padding=8)  # fmt: skip
    before, after = np.asarray(Image.open(BytesIO(init)), np.int16), array(engine, request)
    outside = np.ones(before.shape[:2], dtype=bool)
    reach = 3 * blur + 1
    outside[box[1] - reach : box[3] + reach, box[0] - reach : box[2] + reach] = False
    assert (after[outside] == before[outside]).all()
    assert (after[24:36, 24:36] != before[24:36, 24:36]).mean() > 0.5


def test_an_inpainting_model_sees_what_is_kept(engine: Engine, stored: Store) -> None:
    """Two pictures that differ only where nothing is masked give other pixels under the mask, at any strength."""
    mask = stored(mask_bytes((0, 0, 32, 64)))
    one, two = np.asarray(Image.open(BytesIO(picture_bytes()))).copy(), None
    two = one.copy()
    two[:, 40:] = 255 - two[:, 40:]
    shas = []
    for pixels in (one, two):
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        shas.append(stored(buffer.getvalue()))
    made = [
        array(
            engine, ask("inpaint", init_image=sha, mask=mask, mask_blur=0, masked_content="latent nothing", denoise=1.0)
        )
        for sha in shas
    ]
    assert (made[0][:, :32] != made[1][:, :32]).any()


def test_what_a_checkpoint_does_not_read_is_said(engine: Engine, stored: Store) -> None:
    notes = " ".join(engine.generate(ask("base", image_cfg_scale=3.0, aesthetic_score=9.0)).notes)
    assert "Image CFG scale has no effect on base" in notes
    assert "Aesthetic scores have no effect" in notes
    notes = " ".join(engine.generate(ask("refiner", prompt_clip_l="a hat", prompt_clip_g="a fox")).notes)
    assert "The prompt for CLIP-L has no effect: SDXL refiner has no CLIP-L." in notes
    assert "CLIP-G" not in notes
    notes = " ".join(engine.generate(ask("edit", init_image=stored(picture_bytes()), denoise=0.5)).notes)
    assert "start from noise alone" in notes
