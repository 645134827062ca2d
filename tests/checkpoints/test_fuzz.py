"""1,000 flipped bytes and 200 cut files: our own errors or the right weights, never a crash, never half a model."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
import torch

from backend.checkpoints.load import load_part
from backend.checkpoints.save import write_checkpoint, write_tensors
from backend.errors import UserError
from backend.formats.configs import CheckpointInfo, OtherFile
from backend.formats.detect import detect
from backend.formats.embeddings import EmbeddingInfo
from backend.formats.layout import part_tensors
from backend.formats.reader import read_header
from backend.text.encoders import build_clip, build_t5
from tests import builders
from tests.checkpoints import tiny

UNET = replace(
    builders.TINY_UNET, channel_mult=(1, 2), res_blocks=(1, 1), depth_in=(0, 1), depth_mid=1, depth_out=(1, 1, 0, 0)
)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    """A small checkpoint, its header length, and the right weights of each part."""
    path = tmp_path_factory.mktemp("fuzz") / "victim.safetensors"
    modules = tiny.tiny_modules("sdxl") | {"denoiser": builders.tiny_unet(UNET)}
    write_checkpoint(path, family="sdxl", modules=modules, metadata=tiny.tiny_metadata("sdxl"))
    info = detect(read_header(path))
    weights = {part: load_part(info, part).state_dict() for part in info.sources}
    weights = {part: {key: tensor.clone() for key, tensor in state.items()} for part, state in weights.items()}
    return path, 8 + int.from_bytes(path.read_bytes()[:8], "little"), weights


def test_a_flipped_byte_gives_an_error_of_ours_or_a_whole_model(victim):
    path, header_end, weights = victim
    original = read_header(path)
    size = path.stat().st_size
    rng = random.Random(2026)
    # Half of the flips hit the header, where all that can go wrong is decided; the data holds any bytes.
    places = [rng.randrange(header_end) for _ in range(500)] + [rng.randrange(size) for _ in range(500)]
    refused = loaded = 0
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            old = file.read(1)
            new = bytes([rng.choice([b for b in range(256) if b != old[0]])])
            rewrite(file, place, new)
            try:
                header = read_header(path)
                if dict(header.tensors) == dict(original.tensors) and dict(header.metadata) == dict(original.metadata):
                    continue  # a byte of the data
                info = detect(header)
                assert isinstance(info, CheckpointInfo)
                for part, state in weights.items():
                    same = part_tensors(header.tensors, info.sources[part].prefix) == part_tensors(
                        original.tensors, info.sources[part].prefix
                    )
                    if not same:
                        module = load_part(info, part)
                        assert_whole(module, state)
                loaded += 1
            except UserError as error:
                refused += 1
                assert 10 <= len(str(error)) <= 600
            finally:
                rewrite(file, place, old)
    assert refused > 350
    assert detect(read_header(path)).name == "victim"
    assert loaded < 150  # flips inside metadata texts


def test_a_cut_file_is_always_refused(victim, tmp_path):
    path, header_end, _ = victim
    rng = random.Random(7)
    lengths = [*range(40), *(rng.randrange(header_end) for _ in range(80))]
    lengths += [rng.randrange(path.stat().st_size) for _ in range(200 - len(lengths))]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes())
    for length in sorted(lengths, reverse=True):
        os.truncate(cut, length)
        with pytest.raises(UserError) as caught:
            read_header(cut)
        assert caught.value.code in ("model_corrupt", "model_unsafe")
        assert caught.value.todo


OTHER_FLIPS, OTHER_CUTS = 150, 30
LORA = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def write_kind(kind, path):
    """A small file of a kind, written with the real writer."""
    if kind in tiny.TINY:
        tiny.write_tiny(path, kind)
        return
    states = {
        "VAE": lambda: builders.tiny_vae().state_dict(),
        "CLIP": lambda: build_clip(tiny.CLIP_L).state_dict(),
        "T5": lambda: build_t5(tiny.T5).state_dict(),
        "embedding": lambda: {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)},
        "LoRA": lambda: {f"{LORA}.lora_down.weight": torch.zeros(4, 2048), f"{LORA}.alpha": torch.tensor(4.0)},
    }
    metadata = {"VAE": {"easel.vae": '{"norm_groups": 8}'}}
    write_tensors(path, states[kind](), metadata.get(kind, {}))


@pytest.mark.parametrize("kind", [*tiny.TINY, "VAE", "CLIP", "T5", "embedding", "LoRA"])
def test_damage_to_any_kind_of_file_is_a_sentence_or_harmless(tmp_path, kind):
    path = tmp_path / "victim.safetensors"
    write_kind(kind, path)
    whole = path.read_bytes()
    info = detect(read_header(path))
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(kind)
    told = set()
    with path.open("r+b") as file:
        for place in [rng.randrange(end) for _ in range(OTHER_FLIPS)]:
            old = whole[place : place + 1]
            rewrite(file, place, bytes([rng.choice([b for b in range(256) if b != old[0]])]))
            try:
                told.add(type(detect(read_header(path))))
            except UserError as error:
                assert 10 <= len(str(error)) <= 600
            finally:
                rewrite(file, place, old)
    assert detect(read_header(path)) == info
    assert told <= {type(info), OtherFile, EmbeddingInfo, CheckpointInfo}
    for length in sorted((rng.randrange(len(whole)) for _ in range(OTHER_CUTS)), reverse=True):
        os.truncate(path, length)
        with pytest.raises(UserError):
            read_header(path)


def rewrite(file, place, byte):
    file.seek(place)
    file.write(byte)
    file.flush()


def assert_whole(module, state):
    found = module.state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())
