"""The law of the metadata: request -> file -> request; and strangers' files never raise."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import zlib
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.errors import BadRequest
from backend.records.containers import encode, texts_of
from backend.records.metadata import document, parameters_text, parse_parameters, read_parameters, read_picture
from backend.records.outputs import Outputs
from backend.records.registry import core_registry
from backend.request import MAX_SEED, GenerationRequest, parse_request, request_schema, request_to_json

REGISTRY = core_registry()
FACTS = {"model_hash": "0123456789", "model": "demo-xl", "device": "cpu", "dtype": "float32", "guidance": "batched",
         "version": "0.1.0"}  # fmt: skip
PICTURE = Image.new("RGB", (64, 64), (200, 30, 60))
RESOLVED = GenerationRequest(
    prompt="a fox, on the left", negative_prompt="blurry\nlow quality", checkpoint="demo-xl", width=256, height=192,
    steps=20, sampler="dpmpp_2m", schedule="karras", cfg_scale=6.5, clip_skip=2, seed=7,
)  # fmt: skip


TRICKY = [
    "Negative prompt: x", "Steps: 20, Sampler: Euler, Seed: 1, CFG scale: 7", "a\nNegative prompt: b\n", '"', "\\",
    "\0", "\r\n", "<script>", "\u202e", "\U0001f98a", ": , :", '{"a": 1}',
]  # fmt: skip


def field_values(name: str, node: dict) -> st.SearchStrategy:
    """Any valid value of a field, by its schema."""
    choices = node.get("anyOf", [node])
    strategies = []
    for choice in choices:
        kind = choice.get("type")
        if kind == "null":
            strategies.append(st.none())
        elif "enum" in choice:
            strategies.append(st.sampled_from(choice["enum"]))
        elif kind == "boolean":
            strategies.append(st.booleans())
        elif kind == "integer":
            strategies.append(st.integers(choice["minimum"], min(choice["maximum"], MAX_SEED - 2000)))
        elif kind == "number":
            strategies.append(st.floats(choice["minimum"], choice["maximum"]))
        elif kind == "object":
            values = st.dictionaries(
                st.sampled_from(["scale", "on", "words"]), st.integers() | st.booleans() | st.text()
            )
            panel = st.fixed_dictionaries({"version": st.integers(1, 9), "values": values})
            strategies.append(st.dictionaries(st.sampled_from(["pag", "freeu.deep"]), panel))
        elif "pattern" in choice:
            strategies.append(st.text("0123456789abcdef", min_size=64, max_size=64))
        else:
            strategies.append(st.lists(st.sampled_from(TRICKY) | st.text(max_size=20), max_size=4).map("\n".join))
    return st.one_of(strategies)


@st.composite
def requests(draw) -> GenerationRequest:
    properties = request_schema()["properties"]
    values = {name: draw(field_values(name, node)) for name, node in properties.items()}
    values["guidance_start"], values["guidance_end"] = sorted([values["guidance_start"], values["guidance_end"]])
    if values["init_image"] is None:
        values["mask"] = None
    return parse_request(values)


def file_of(request: GenerationRequest, *, index: int = 0, facts=FACTS) -> bytes:
    text = parameters_text(request, facts, REGISTRY, index=index)
    return encode(
        PICTURE, request.image_format, parameters=text, document=document(request, facts, index=index), quality=90
    ).data


@settings(max_examples=80, deadline=None)
@given(requests())
def test_request_file_request_is_identical(request_):
    info = read_picture(file_of(request_))
    assert info.source == "easel"
    assert info.notes == ()
    assert parse_request(info.request) == request_
    assert info.facts == FACTS


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_prompts_of_100_000_characters_come_back(kind, tmp_path):
    prompt = "狐 fox, " * 14_285
    request = GenerationRequest(prompt=prompt, negative_prompt=prompt, prompt_t5=prompt, image_format=kind, seed=1)
    outputs = Outputs(tmp_path)
    saved = outputs.save(PICTURE, job="j", index=0, request=request, facts=FACTS)
    assert parse_request(read_picture(saved.path).request) == request
    assert bool(saved.notes) == (kind == "jpeg")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_other_programs_find_the_parameters_text(kind):
    request = replace(RESOLVED, image_format=kind, prompt="a fox, 狐")
    text = texts_of(file_of(request))["parameters"]
    image = Image.open(io.BytesIO(file_of(request)))
    if kind == "png":
        assert image.text["parameters"] == text
    else:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment == b"UNICODE\0" + text.encode("utf-16-be")


def test_the_text_is_in_a1111s_order():
    text = texts_of(file_of(RESOLVED))["parameters"]
    assert text == (
        "a fox, on the left\nNegative prompt: blurry\nlow quality\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 7, Size: 256x192, "
        "Model hash: 0123456789, Model: demo-xl, Clip skip: 2, RNG: CPU, Device: cpu, Precision: float32, "
        "Guidance: batched, Version: Easel 0.1.0"
    )


def test_a_batch_tells_each_picture_its_own_seed():
    request = replace(RESOLVED, batch_size=2, batch_count=3)
    info = read_picture(file_of(request, index=4))
    assert "Seed: 11," in info.parameters
    assert parse_request(info.request) == request
    assert parse_request(info.picture) == replace(RESOLVED, seed=11)
    varied = replace(request, variation_strength=0.2, variation_seed=100)
    info = read_picture(file_of(varied, index=4))
    assert "Seed: 7," in info.parameters
    assert "Variation seed: 104, Variation seed strength: 0.2" in info.parameters
    assert (info.picture["seed"], info.picture["variation_seed"]) == (7, 104)


def test_our_own_text_alone_gives_the_fields_back():
    request = parse_request(
        {**request_to_json(RESOLVED), "init_image": "a" * 64, "mask": "b" * 64, "denoise": 0.55, "mask_blur": 8,
         "invert_mask": True, "masked_content": "latent noise", "inpaint_area": "only masked", "masked_padding": 16,
         "variation_strength": 0.1, "variation_seed": 3, "emphasis": "no norm", "use_t5": False, "shift": 2.5,
         "prompt_t5": 'long: "words", and\nlines, Seed: 99', "original_width": 512, "crop_top": 3, "guidance_end": 0.8,
         "exact_steps": True, "resize_mode": "resize and fill", "cfg_rescale": 0.7, "vae": "my, vae"}
    )  # fmt: skip
    text = texts_of(file_of(request))["parameters"]
    parsed = read_parameters(text, REGISTRY)
    expected = {k: v for k, v in request_to_json(request).items() if k not in {"init_image", "mask"}}
    got = request_to_json(parse_request({**parsed.fields}))
    assert {k: got[k] for k in expected} == expected
    assert parsed.leftovers == {}
    assert parsed.facts["model_hash"] == "0123456789"


A1111 = """masterpiece, (fox:1.2), <lora:foo:0.8>
second line
Negative prompt: bad, worse
and more
Steps: 28, Sampler: DPM++ 2M SDE Karras, CFG scale: 5.5, Seed: 1234567890, Size: 832x1216, Model hash: 31e35c80fc, \
Model: sd_xl_base_1.0, VAE hash: 235745af8d, VAE: sdxl_vae.safetensors, Denoising strength: 0.4, Clip skip: 2, \
ENSD: 31337, Hires upscale: 1.5, Lora hashes: "foo: abcdef123456, bar: 0123456789ab", Version: v1.10.1"""


def test_an_a1111_text_is_read():
    parsed = read_parameters(A1111, REGISTRY)
    assert parsed.fields == {
        "prompt": "masterpiece, (fox:1.2), <lora:foo:0.8>\nsecond line", "negative_prompt": "bad, worse\nand more",
        "steps": 28, "sampler": "dpmpp_2m_sde", "schedule": "karras", "cfg_scale": 5.5, "seed": 1234567890,
        "width": 832, "height": 1216, "checkpoint": "sd_xl_base_1.0", "vae": "sdxl_vae.safetensors", "clip_skip": 2,
    }  # fmt: skip
    assert parsed.leftovers == {"Denoising strength": "0.4", "ENSD": "31337", "Hires upscale": "1.5"}
    assert parsed.facts["lora_hashes"] == "foo: abcdef123456, bar: 0123456789ab"
    assert parsed.facts["version"] == "v1.10.1"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {"prompt": ""}),
        ("just a prompt: with a colon", {"prompt": "just a prompt: with a colon"}),
        ("a\nSteps: 20, Seed: 1", {"prompt": "a\nSteps: 20, Seed: 1"}),  # two pairs are not enough
        (
            "Negative prompt: n\nSteps: 20, Seed: 1, CFG scale: 7",
            {"prompt": "", "negative_prompt": "n", "steps": 20, "seed": 1, "cfg_scale": 7.0},
        ),
        (
            "a\nSteps: 20, Sampler: Euler a, Seed: 1",
            {"prompt": "a", "steps": 20, "sampler": "euler_a", "schedule": "automatic", "seed": 1},
        ),
        (
            "a\nSteps: 9, Seed: 1, Schedule type: Uniform, CFG scale: 1",
            {"prompt": "a", "steps": 9, "seed": 1, "schedule": "normal", "cfg_scale": 1.0},
        ),
        ("a\nSteps: 20, Seed: 1, Size: 10x10, CFG scale: nan", {"prompt": "a", "steps": 20, "seed": 1}),
        ("a\nSteps: 20, Seed: 99999999999999999999999, CFG scale: 1e999", {"prompt": "a", "steps": 20}),
        ("a\nSteps: twenty, Seed: -1, Model: None, VAE: Automatic", {"prompt": "a", "seed": -1, "checkpoint": "None"}),
    ],
)  # fmt: skip
def test_texts_are_read_as_a1111_reads_them(text, fields):
    assert parse_parameters(text) == fields


def test_the_prediction_is_read_back_and_a1111s_noise_schedule_understood():
    request = GenerationRequest(prompt="a", steps=20, prediction="v", zero_terminal_snr=False)
    text = parameters_text(request, {}, core_registry())
    assert "Prediction: v, Zero terminal SNR: False" in text
    fields = parse_parameters(text)
    assert (fields["prediction"], fields["zero_terminal_snr"]) == ("v", False)
    theirs = "a fox\nSteps: 20, Seed: 1, Noise Schedule: Zero Terminal SNR, CFG scale: 5"
    assert parse_parameters(theirs)["zero_terminal_snr"] is True


def test_refiner_and_image_cfg_scale_are_written_and_read_as_a1111_does():
    request = GenerationRequest(prompt="a", steps=20, refiner="sd_xl_refiner_1.0", refiner_switch=0.7,
                                image_cfg_scale=1.25, aesthetic_score=7.0)  # fmt: skip
    text = parameters_text(request, {"refiner_hash": "7440042bbd"}, core_registry())
    assert "Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.7" in text
    assert "Image CFG scale: 1.25" in text
    parsed = read_parameters(text, core_registry())
    assert parsed.fields["refiner"] == "sd_xl_refiner_1.0"
    assert [parsed.fields[name] for name in ("refiner_switch", "image_cfg_scale", "aesthetic_score")] == [0.7, 1.25, 7]
    assert (parsed.facts["refiner_hash"], parsed.leftovers) == ("7440042bbd", {})
    assert parse_parameters("a\nSteps: 2, Seed: 1, Refiner: x [y] z")["refiner"] == "x [y] z"


def test_what_has_no_place_is_named():
    parsed = read_parameters(
        "a\nSteps: 999, Sampler: Restart, Schedule type: Align Your Steps, Size: 3x3, Seed: 1", REGISTRY
    )
    assert parsed.leftovers == {"Sampling steps": "999", "Sampler": "Restart", "Schedule type": "Align Your Steps",
                                "Width": "3", "Height": "3"}  # fmt: skip


@pytest.mark.parametrize(
    "part", ["a" * 200_000, "a: " * 60_000, 'a: "' * 50_000, "ab, " * 50_000, "\n" * 200_000, '"\\' * 90_000]
)
def test_hostile_lines_take_linear_time(part):
    started = time.perf_counter()
    read_parameters("x\n" + part, REGISTRY)
    assert time.perf_counter() - started < 2


@settings(max_examples=80, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["Steps: ", "Seed: ", ", ", '"', "\n", "Size: ", "1", "x", "Negative prompt:", "Sampler: Euler"]
        )
    ).map("".join)
)
def test_any_text_gives_valid_fields(text):
    parse_request(parse_parameters(text))


def test_sd_parsers_reads_ours(tmp_path):
    from sd_parsers import ParserManager

    for kind in ["png", "jpeg", "webp"]:
        request = replace(RESOLVED, image_format=kind, prompt_t5="a, Seed: 99", checkpoint="my, Seed: 5")
        saved = Outputs(tmp_path).save(PICTURE, job="j", index=0, request=request, facts=FACTS)
        found = ParserManager().parse(saved.path)
        assert found is not None
        sampler = next(iter(found.samplers))
        assert sampler.name == "DPM++ 2M"
        assert {key: sampler.parameters[key] for key in ("steps", "cfg_scale", "seed", "scheduler")} == {
            "steps": "20", "cfg_scale": "6.5", "seed": "7", "scheduler": "Karras"}  # fmt: skip
        assert [prompt.value for prompt in found.prompts] == ["a fox, on the left"]
        assert [prompt.value for prompt in found.negative_prompts] == ["blurry\nlow quality"]


def png_with(**texts: str) -> bytes:
    info, buffer = PngInfo(), io.BytesIO()
    for key, value in texts.items():
        info.add_text(key, value)
    PICTURE.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


BROKEN = [
    "", "{", "[]", "null", "7", '{"request": 7}', '{"schema": 1}', "[" * 100_000, '{"request":' * 20_000,
    '{"schema": 1, "request": {"cfg_scale": NaN}}', '{"schema": 1, "request": {"cfg_scale": 1e999}}',
    '{"schema": 1, "request": {"seed": ' + "9" * 5000 + "}}",
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_record_gives_way_to_the_text(text):
    info = read_picture(png_with(easel=text, parameters=A1111))
    if "1e999" in text:
        assert info.source == "easel"
        assert "cfg_scale" in info.notes[0]
    else:
        assert info.source == "a1111"
        assert info.request["steps"] == 28
        assert "own record" in info.notes[0]
    json.dumps(info.notes).encode()


def test_hostile_values_are_left_out_with_a_note():
    values = {"prompt": "<script>alert(1)</script>", "width": 10**9, "steps": "20", "seed": True, "nonsense": [1],
              "mask": "a" * 64, "negative_prompt": "\ud800", "guidance_start": 0.9, "guidance_end": 0.1, "x" * 5000: 1,
              "init_image": "../../etc/passwd"}  # fmt: skip
    record = json.dumps(
        {"schema": 7, "index": 10**6, "request": values, "facts": {"a": "\ud800", "b": {}, "c": "z" * 9999}}
    )
    info = read_picture(png_with(easel=record))
    assert parse_request(info.request) == GenerationRequest(prompt="<script>alert(1)</script>")
    told = " ".join(info.notes)
    for word in [
        "schema 7",
        "nonsense",
        "width",
        "steps",
        "seed",
        "negative_prompt",
        "init_image",
        "guidance_start",
        "mask",
    ]:
        assert word in told
    assert all(len(note) <= 300 for note in info.notes)
    assert list(info.facts) == ["a", "c"]
    assert len(info.facts["c"]) == 500
    told.encode(), json.dumps(info.facts, ensure_ascii=False).encode()


def test_a_picture_without_parameters_says_so():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    info = read_picture(buffer.getvalue())
    assert (info.source, info.parameters, info.request) == ("none", "", None)
    assert "ComfyUI" in read_picture(png_with(workflow="{}")).notes[0]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<html>", b"RIFF1234WAVE"])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(BadRequest, match="no picture"):
        read_picture(data)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(BadRequest, match=r"none\.png cannot be read"):
        read_picture(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on damaged EXIF
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_damaged_files_never_raise(kind):
    data = file_of(replace(RESOLVED, image_format=kind))
    dice = random.Random(3)
    for length in range(12, len(data), max(1, len(data) // 100)):
        read_picture(data[:length])
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[dice.randrange(12, len(data))] = dice.randrange(256)
        read_picture(bytes(damaged))


def test_a_compressed_bomb_of_text_is_cut():
    packed = zlib.compress(b"a" * 100_000_000, 1)
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    data = buffer.getvalue()
    body = b"zTXtparameters\0\0" + packed
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    info = read_picture(data[:33] + chunk + data[33:])
    assert len(info.parameters) <= 1_000_000


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_the_same_request_gives_the_same_bytes_and_no_double(kind, tmp_path):
    request = replace(RESOLVED, image_format=kind, batch_size=2)
    outputs = Outputs(tmp_path, today=lambda: date(2026, 11, 23))
    first = outputs.save(PICTURE, job="3fa9c1d2e4b5", index=0, request=request, facts=FACTS)
    before = first.path.read_bytes()
    other = outputs.save(PICTURE, job="3fa9c1d2e4b5", index=1, request=request, facts=FACTS)
    again = outputs.save(PICTURE, job="3fa9c1d2e4b5", index=0, request=request, facts=FACTS)
    assert again == first
    assert first.path.read_bytes() == before
    suffix = {"png": "png", "jpeg": "jpg", "webp": "webp"}[kind]
    assert first.path == tmp_path / "2026-11-23" / f"00000-7-3fa9c1d2-0.{suffix}"
    assert other.path.name == f"00001-8-3fa9c1d2-1.{suffix}"
    assert sorted(each.name for each in first.path.parent.iterdir()) == [first.path.name, other.path.name]


def test_a_picture_comes_back_as_it_was(tmp_path):
    image = Image.effect_noise((96, 64), 100).convert("RGB")
    saved = Outputs(tmp_path).save(image, job="", index=0, request=RESOLVED, facts=FACTS)
    assert Image.open(saved.path).tobytes() == image.tobytes()


@pytest.mark.parametrize("job", ["../../x", "", "..\\..", "\0", "a/b/c/d"])
def test_a_jobs_name_never_leaves_the_folder(job, tmp_path):
    saved = Outputs(tmp_path / "outputs").save(PICTURE, job=job, index=0, request=RESOLVED, facts=FACTS)
    assert saved.path.parent.parent == tmp_path / "outputs"
    assert [each.name for each in tmp_path.iterdir()] == ["outputs"]
