"""Textual inversions from the file in models/embeddings to conditioning, picture and metadata, in both families."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backend.engine.engine import Engine
from backend.engine.job import Job
from backend.engine.prompting import PromptCache, Prompting
from backend.events import Note
from backend.records.hashes import tensors_hash
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import GenerationRequest
from backend.text.embeddings import embedding_words
from tests.builders import tiny_clip_tokenizer
from tests.families.running import job_of
from tests.families.test_against_diffusers import close
from tests.oracles.diffusers_pipelines import sdxl_pipeline

L, G, T5 = 64, 128, 256  # widths of the tiny encoders


def vectors(count: int, width: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


FILES = {
    "zorb": {"clip_l": vectors(3, L), "clip_g": vectors(3, G)},
    "zorb3": {"clip_l": vectors(2, L), "clip_g": vectors(2, G), "t5xxl": vectors(4, T5)},
    "zorb1": {"emb_params": vectors(2, L)},
    "zorbwide": {"emb_params": vectors(2, 1024)},
    "Wild-Style": {"<wild-style>": vectors(1, L)[0]},
}


@pytest.fixture(scope="module")
def folder(engine: Engine) -> Iterator[Path]:
    folder = engine.settings.models_dir / "embeddings"
    folder.mkdir()
    for name, tensors in FILES.items():
        save_file(tensors, folder / f"{name}.safetensors", metadata={"step": "100"})
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def encoded(engine: Engine, checkpoint: str, prompt: str, **fields: Any) -> Prompting:
    request = GenerationRequest(checkpoint=checkpoint, prompt=prompt, width=96, height=64, steps=4, seed=1, **fields)
    job = job_of(engine, request)
    words = embedding_words(engine.catalog.files.folder("embeddings"))
    return PromptCache().encode(replace_words(job, words), engine.manager, 4)


def replace_words(job: Job, words: Any) -> Job:
    from dataclasses import replace

    return replace(job, words=words)


def fast_tokenizer(config: Any) -> Any:
    """The tiny vocabulary as transformers' own class, to which diffusers can add tokens."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(tiny_clip_tokenizer())
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, config.bos), (end, config.eos)]
    )
    pad = tokenizer.id_to_token(config.pad)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=pad, unk_token=end, model_max_length=77
    )


@pytest.mark.oracle
@pytest.mark.parametrize("prompt", ["a zorb fox", "zorb", "a hat, zorb and zorb"])
def test_sdxl_conditioning_with_an_embedding_is_diffusers(engine: Engine, folder: Path, prompt: str):
    info = engine.catalog.checkpoint("sdxl")
    pipe = sdxl_pipeline(info, {part: engine.manager.get(info, part) for part in info.sources}, tiny_clip_tokenizer())
    pipe.tokenizer, pipe.tokenizer_2 = fast_tokenizer(info.clip_l), fast_tokenizer(info.clip_g)
    for key, encoder, tokenizer in [
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ]:
        pipe.load_textual_inversion({"zorb": FILES["zorb"][key]}, token="zorb", text_encoder=encoder,
                                    tokenizer=tokenizer)  # fmt: skip
    with torch.no_grad():
        context, empty_context, pooled, _ = pipe.encode_prompt(prompt, negative_prompt="zorb, a hat")
    ours = encoded(engine, "sdxl", prompt, negative_prompt="zorb, a hat", cfg_scale=3.0)
    assert ours.uncond is not None
    close(ours.cond[0].at(0).context, context)
    close(ours.cond[0].at(0).pooled[:, :G], pooled)  # type: ignore[index]
    close(ours.uncond.at(0).context, empty_context)
    assert [each.name for each in ours.embeddings] == ["zorb"]
    assert ours.notes == ()


def test_in_sd3_each_encoder_reads_its_own_rows(engine: Engine, folder: Path):
    whole = encoded(engine, "sd3", "a zorb3 fox")
    assert whole.notes == ()
    words = encoded(engine, "sd3", "a fox")
    context, plain = whole.cond[0].at(0).context, words.cond[0].at(0).context
    assert torch.equal(context[:, :2, : L + G], plain[:, :2, : L + G])  # begin and "a", which causal CLIP reads alone
    assert not torch.equal(context[:, 2, :L], plain[:, 2, :L])
    assert not torch.equal(context[:, 2, L : L + G], plain[:, 2, L : L + G])
    with_t5 = encoded(engine, "sd3", "a fox", prompt_t5="a zorb3 fox")
    assert not torch.equal(with_t5.cond[0].at(0).context[:, 77:], plain[:, 77:])
    assert torch.equal(with_t5.cond[0].at(0).context[:, :77], plain[:, :77])


def test_weights_act_on_embeddings(engine: Engine, folder: Path):
    plain, strong = (
        encoded(engine, "sdxl", text, emphasis="no norm").cond[0].at(0).context for text in ("zorb", "(zorb:1.5)")
    )
    torch.testing.assert_close(strong[:, 1:4], plain[:, 1:4] * 1.5)
    assert torch.equal(strong[:, 4:], plain[:, 4:])


@pytest.mark.parametrize(
    ("checkpoint", "prompt", "words"),
    [
        ("sdxl", "zorbwide", "zorbwide was made for another model: its vectors have width 1024, and sdxl takes CLIP-L"),
        ("sdxl", "zorb1", "zorb1 has nothing for CLIP-G, which reads its name as words"),
        ("sd3", "zorb", "zorb has nothing for T5, which reads its name as words"),
        ("sd3", "a WILD-STYLE", "Wild-Style has nothing for CLIP-G and T5, which read its name as words"),
    ],
)
def test_what_does_not_fit_is_told(engine: Engine, folder: Path, checkpoint: str, prompt: str, words: str):
    (note,) = encoded(engine, checkpoint, prompt).notes
    assert words in note
    assert encoded(engine, checkpoint, f"{prompt}s").notes == ()


def test_an_encoder_whose_prompt_does_not_name_it_is_not_told_of(engine: Engine, folder: Path):
    assert encoded(engine, "sdxl", "a fox", prompt_clip_l="zorb1").notes == ()
    assert encoded(engine, "sd3", "zorb", use_t5=False).notes == ()


def test_hashes_stand_in_the_picture_and_come_back(engine: Engine, folder: Path, tmp_path: Path):
    told: list[Any] = []
    request = GenerationRequest(
        checkpoint="sdxl", prompt="a zorb fox", negative_prompt="(Wild-Style:1.2)", width=64, height=64, steps=1, seed=1
    )
    result = engine.generate(request, told.append, outputs=Outputs(tmp_path))
    path = result.pictures[0].path
    assert path is not None
    expected = [f"{name}: {tensors_hash(folder / f'{name}.safetensors')[:12]}" for name in ("zorb", "Wild-Style")]
    info = read_picture(path)
    assert info.facts["ti_hashes"] == ", ".join(expected)
    assert info.request is not None
    assert info.request["prompt"] == "a zorb fox"
    assert "TI hashes: " in result.pictures[0].parameters
    assert any(isinstance(event, Note) and "nothing for CLIP-G" in event.text for event in told)
    plain = engine.generate(GenerationRequest(checkpoint="sdxl", prompt="a fox", width=64, height=64, steps=1))
    assert "TI hashes" not in plain.pictures[0].parameters


def test_the_hash_is_that_of_the_tensors_alone(tmp_path: Path):
    for name, metadata in [("a", {"x": "1"}), ("b", {"x": "a longer note"})]:
        save_file({"emb_params": vectors(2, L)}, tmp_path / f"{name}.safetensors", metadata=metadata)
    assert tensors_hash(tmp_path / "a.safetensors") == tensors_hash(tmp_path / "b.safetensors")


def test_a_file_that_is_replaced_gives_another_picture(engine: Engine, folder: Path):
    request = GenerationRequest(checkpoint="sdxl", prompt="a zorbnew fox", width=64, height=64, steps=1, seed=1)

    def latent() -> bytes:
        return engine.generate(request).pictures[0].image.tobytes()

    as_words = latent()
    for seed in (1, 2):
        tensors = {"clip_l": 9 * vectors(2, L, seed), "clip_g": 9 * vectors(2, G, seed)}
        save_file(tensors, folder / "zorbnew.safetensors")
        now = latent()
        assert now != as_words
        as_words = now


def test_an_embedding_file_that_cannot_be_used_is_told_when_a_prompt_names_it(engine: Engine, folder: Path):
    (folder / "zorbcut.safetensors").write_bytes((folder / "zorb.safetensors").read_bytes()[:-8])
    (folder / "zorbold.pt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "zorb.pt").write_bytes(b"\x80\x02}q\x00.")  # beside one that can be used
    try:
        notes = encoded(engine, "sdxl", "a zorbcut fox, a zorbold hat").notes
        assert [note for note in notes if "zorbcut is read as words. zorbcut.safetensors is cut" in note]
        assert [note for note in notes if "zorbold is read as words." in note and "easel convert" in note]
        assert encoded(engine, "sdxl", "a zorb fox").notes == ()
    finally:
        for name in ("zorbcut.safetensors", "zorbold.pt", "zorb.pt"):
            (folder / name).unlink()


def test_half_of_an_embedding_is_said_to_be_half(engine: Engine, folder: Path):
    (note,) = encoded(engine, "sd1", "a zorb fox").notes
    assert "zorb was made for another model: half of it is for CLIP-G, which sd1" in note
    assert encoded(engine, "sd1", "a zorb1 fox").notes == ()
