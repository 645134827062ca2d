"""The Expand button, expansion at every generation, and a language model of the user's."""

from __future__ import annotations

import gc
import json
import shutil
import socket
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from backend.engine.actions import run_action
from backend.errors import BadRequest, OutOfMemory, UserError
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import request_to_json
from extensions.prompt_expand.model import build, written_on
from tests.engine.conftest import ask

WORDS = ["a", "fox", "hen", "in", "the", "snow", "golden", "light", "night", ",", "soft", "wide", "on", "grass"]


def told(**values):
    return {"prompt_expand": {"version": 1, "values": values}}


def press(engine, checkpoint="tiny-xl", **fields):
    return run_action(engine.extensions, engine.inputs, "prompt_expand", "expand", ask(checkpoint, **fields))


def test_expand_shows_a_longer_prompt_as_the_family_reads_it_and_keeps_the_original(engine, checkpoint):
    done = press(engine, checkpoint)
    expanded = done.fields["prompt"]
    assert done.values == {"original": "a fox", "expanded": expanded}
    if checkpoint == "tiny-sd3":
        assert expanded.startswith("a fox. ")
        assert expanded.endswith(".")
    else:
        assert expanded.startswith("a fox, ")
        assert "." not in expanded
    assert press(engine, checkpoint).fields == done.fields
    assert press(engine, checkpoint, seed=12).fields != done.fields


def test_expand_pressed_again_begins_with_the_original_unless_the_text_was_edited(engine):
    first = press(engine)
    kept = told(**first.values)
    again = press(engine, prompt=first.fields["prompt"], seed=12, extensions=kept)
    assert again.values["original"] == "a fox"
    assert again.fields == press(engine, seed=12).fields
    edited = press(engine, prompt="a blue hen", seed=12, extensions=kept)
    assert edited.values["original"] == "a blue hen"


def test_expand_says_so_when_there_is_nothing_to_add(engine):
    full = "a photograph of a fox, close-up, soft light, calm, 85mm lens"
    done = press(engine, prompt=full)
    assert done.fields == {}
    assert "Nothing was added" in done.text


def test_both_prompts_are_in_the_metadata_and_read_back(engine, checkpoint, tmp_path):
    done = press(engine, checkpoint)
    asked = ask(checkpoint, prompt=done.fields["prompt"], extensions=told(**done.values))
    result = engine.generate(asked, outputs=Outputs(tmp_path, registry=engine.registry))
    info = read_picture(result.pictures[0].path.read_bytes(), engine.registry)
    assert info.request == request_to_json(result.request)
    assert info.request["prompt"] == done.fields["prompt"]
    kept = info.request["extensions"]["prompt_expand"]["values"]
    assert kept == {**kept, **done.values}


def test_at_every_generation_the_picture_is_that_of_the_expanded_prompt_and_repeats(engine, checkpoint, tmp_path):
    asked = ask(checkpoint, extensions=told(every=True))
    result = engine.generate(asked, outputs=Outputs(tmp_path, registry=engine.registry))
    info = read_picture(result.pictures[0].path.read_bytes(), engine.registry)
    values = info.request["extensions"]["prompt_expand"]["values"]
    assert (values["original"], values["every"]) == ("a fox", False)
    expanded = info.request["prompt"]
    assert expanded == values["expanded"] == press(engine, checkpoint).fields["prompt"]
    assert result.notes[0] == f"prompt_expand: The prompt became: {expanded}"
    plain = engine.generate(ask(checkpoint, prompt=expanded)).pictures[0].image
    again = engine.generate(replace(asked, prompt=expanded, extensions=info.request["extensions"])).pictures[0].image
    assert np.array_equal(result.pictures[0].image, plain)
    assert np.array_equal(again, plain)


def test_a_prompt_that_has_become_another_does_not_carry_the_old_original(engine):
    kept = told(original="a fox on a hill", expanded="a fox on a hill, soft light")
    edited = engine.generate(ask("tiny-xl", prompt="a red fox on a hill", extensions=kept))
    assert edited.request.extensions["prompt_expand"]["values"]["original"] == "a fox on a hill"
    other = engine.generate(ask("tiny-xl", prompt="two hens", extensions=kept))
    assert other.request.extensions["prompt_expand"]["values"]["original"] == ""


# -- a language model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny random models of two kinds, saved as users have them."""
    home = tmp_path_factory.mktemp("language")
    vocabulary = {word: index for index, word in enumerate([*WORDS, "<unk>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    size = {"vocab_size": len(vocabulary), "eos_token_id": vocabulary["<end>"], "bos_token_id": None}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, **size))
    llama = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                    max_position_embeddings=64, **size)
    )  # fmt: skip
    for name, model in (("gpt2", gpt2), ("llama", llama.to(torch.bfloat16))):
        model.save_pretrained(home / name)
        tokenizer.save(str(home / name / "tokenizer.json"))
    del gpt2, llama, model
    gc.collect()
    return home


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def with_models(engine, models_dir, folders):
    home = models_dir / "text_generation"
    shutil.copytree(folders, home)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def write(engine, with_models):
    """Lets a model of the engine's folder write behind "a fox"."""

    def written(name: str, *, seed: int = 1, tokens: int = 8, seconds: float = 60.0) -> tuple[str, bool]:
        with engine.networks.use(beside="a test") as use:
            own_network = partial(engine.networks.load, use)
            return written_on(own_network, with_models / name, "a fox", seed=seed, tokens=tokens, seconds=seconds)

    return written


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_writes_by_the_seed_within_its_tokens_and_leaves_like_any_other(offline, engine, write, name):
    before = torch.random.get_rng_state()
    one = write(name)
    assert one == write(name)
    assert len({write(name, seed=seed) for seed in range(4)}) > 1
    assert len(one[0].split()) <= 8
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
    kinds = (GPT2LMHeadModel, LlamaForCausalLM)
    assert sum(key.name == name for key in engine.manager.residents) == 1
    engine.manager.drop_all()
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) in kinds]


def test_a_model_writes_what_transformers_writes_with_the_folder(engine, with_models, write):
    """Ours is built of tensors that the engine has read; transformers' of its own files."""
    there = GPT2LMHeadModel.from_pretrained(with_models / "gpt2").eval()
    write("gpt2")
    key = next(key for key in engine.manager.residents if key.name == "gpt2")
    with engine.networks.use() as use:
        folder = with_models / "gpt2"
        ours = engine.networks.load(use, "text_generation", "gpt2", partial(build, folder), torch.float32)
        ids = torch.tensor([[0, 1, 3]])
        assert torch.equal(ours(ids).logits, there(ids).logits)
    assert key in engine.manager.residents


def test_it_is_taken_when_it_is_there_and_rules_when_they_are_asked_for(offline, engine, with_models):
    by_rules = press(engine, extensions=told(writer="rules")).fields["prompt"]
    found = {press(engine, seed=seed, extensions=told(tokens=12)).fields.get("prompt", "a fox") for seed in range(5)}
    assert all(prompt.startswith("a fox") for prompt in found)
    assert any(prompt != "a fox" for prompt in found)
    assert by_rules not in found
    asked = ask("tiny-xl", seed=1, extensions=told(every=True, model="llama", tokens=12))
    result = engine.generate(asked)
    assert result.request.extensions["prompt_expand"]["values"]["model"] == "llama"
    with pytest.raises(BadRequest, match="Did you mean 'llama'"):
        press(engine, extensions=told(model="lama"))


def test_expansion_by_rules_opens_no_socket(offline, engine, checkpoint):
    assert press(engine, checkpoint).fields["prompt"] != "a fox"


def test_a_model_that_was_asked_for_and_is_not_there_is_an_error(engine):
    with pytest.raises(BadRequest, match="no language model in models/text_generation"):
        press(engine, extensions=told(writer="language model"))


def test_what_is_no_folder_of_a_model_or_runs_code_is_refused(with_models, write):
    def refused(change) -> str:
        folder = with_models / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(with_models / "gpt2", folder)
        change(folder)
        with pytest.raises(UserError) as caught:
            write("model", tokens=4)
        return str(caught.value)

    def configure(folder, **more):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **more}))

    def without_a_tensor(folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors["transformer.h.0.mlp.c_fc.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    assert "has no *.safetensors" in refused(lambda folder: (folder / "model.safetensors").unlink())
    assert "has no tokenizer.json" in refused(lambda folder: (folder / "tokenizer.json").unlink())
    assert "code of its own" in refused(lambda folder: configure(folder, auto_map={"AutoModelForCausalLM": "x.X"}))
    assert "cannot be read" in refused(lambda folder: (folder / "config.json").write_text("{"))
    assert "cannot be read" in refused(lambda folder: (folder / "tokenizer.json").write_text("{"))
    assert "cannot be loaded" in refused(lambda folder: configure(folder, model_type="nobody_knows"))
    assert "model.safetensors" in refused(lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100))
    assert "cannot be loaded" in refused(lambda folder: configure(folder, n_positions=4))
    assert "is not whole" in refused(without_a_tensor)
    with pytest.raises(BadRequest, match="no room"):
        write("gpt2", tokens=64)


def test_a_model_that_does_not_fit_or_is_too_slow_is_refused(engine, write, monkeypatch):
    with pytest.raises(BadRequest, match=r"wrote .* tokens in 0 seconds"):
        write("gpt2", seed=2, tokens=40, seconds=0)
    engine.manager.drop_all()
    monkeypatch.setattr(engine.manager, "policy", replace(engine.policy, budget_bytes=2000))
    with pytest.raises(OutOfMemory, match=r"gpt2 takes .* Easel may use 2\.0 KiB for models"):
        write("gpt2")
