"""From prompt to features: the pipeline as transformers would run it, emphasis by its formulas, lengths."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backend.text.encode import emphasise, encode_clip, encode_t5
from backend.text.encoders import build_clip, build_t5
from backend.text.prompt import ParsedPrompt, parse_prompt
from backend.text.tokenize import ClipTokenizer, T5Tokenizer
from tests.builders import randomise
from tests.text.tiny import CLIP_G, CLIP_L, T5


def prompt(text: str) -> ParsedPrompt:
    return parse_prompt(text, 20).parts[0].at(0)


@pytest.fixture(scope="module")
def clip():
    return randomise(build_clip(CLIP_L)), ClipTokenizer(CLIP_L), CLIP_L


@pytest.fixture(scope="module")
def t5():
    return randomise(build_t5(T5)), T5Tokenizer(T5), T5


def hidden(clip, text: str, emphasis: str = "original", clip_skip: int = 2) -> Tensor:
    return encode_clip(*clip, prompt(text), clip_skip=clip_skip, emphasis=emphasis).hidden


@pytest.mark.oracle
@pytest.mark.parametrize("config", [CLIP_L, CLIP_G], ids=["clip_l", "clip_g"])
@pytest.mark.parametrize("text", ["", "a fox, 2 green hearts 🦊", "fox " * 75])
def test_clip_features_match_transformers_pipeline(config, text):
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    from backend.text import vocabularies

    merges = [tuple(line.split(" ")) for line in vocabularies.shipped_text("clip_merges.txt.gz").splitlines()]
    vocabulary = vocabularies.shipped_clip().get_vocab()
    pad = "!" if config.pad == 0 else "<|endoftext|>"
    theirs = CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)
    # its Roberta-style framing is right; padding by hand keeps an "!" in the prompt apart from the padding
    ids = torch.tensor([[*theirs(text).input_ids, *[config.pad] * 77][:77]])
    model = randomise(build_clip(config))
    expected = model(input_ids=ids, output_hidden_states=True)
    features = encode_clip(model, ClipTokenizer(config), config, prompt(text), clip_skip=2)
    torch.testing.assert_close(features.hidden, expected.hidden_states[-2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.pooled_projected, expected.text_embeds, rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("text", ["", "a fox, 2 green hearts", "fox " * 100])
def test_t5_features_match_transformers_pipeline(t5, text):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from backend.text import vocabularies

    shipped = Tokenizer.from_str(vocabularies.shipped_text("t5_tokenizer.json.gz"))
    theirs = PreTrainedTokenizerFast(tokenizer_object=shipped, eos_token="</s>", pad_token="<pad>")
    longest = max(77, len(theirs(text).input_ids))
    ids = theirs(text, padding="max_length", max_length=longest, return_tensors="pt").input_ids
    expected = t5[0](input_ids=ids).last_hidden_state
    torch.testing.assert_close(encode_t5(*t5, prompt(text)), expected, rtol=1e-5, atol=1e-5)


def test_chunks_are_laid_end_to_end_and_pooled_from_the_first(clip):
    both = encode_clip(*clip, prompt("a fox BREAK a heart"), clip_skip=2)
    first = encode_clip(*clip, prompt("a fox"), clip_skip=2)
    second = encode_clip(*clip, prompt("a heart"), clip_skip=2)
    assert both.hidden.shape == (1, 154, 32)
    torch.testing.assert_close(both.hidden, torch.cat([first.hidden, second.hidden], dim=1))
    torch.testing.assert_close(both.pooled_projected, first.pooled_projected)
    assert both.pooled_projected.shape == (1, 24)
    assert both.pooled_unprojected.shape == (1, 32)


def test_the_same_prompt_gives_the_same_bits(clip, t5):
    text = "a (fox:1.3), a [heart] " * 20
    assert torch.equal(hidden(clip, text), hidden(clip, text))
    assert torch.equal(encode_t5(*t5, prompt(text)), encode_t5(*t5, prompt(text)))


@pytest.mark.parametrize("emphasis", ["original", "no norm", "interpolate", "ignore"])
def test_weight_one_changes_no_bit(clip, emphasis):
    assert torch.equal(hidden(clip, "a (red:1.0) fox", emphasis), hidden(clip, "a (red:1.0) fox", "ignore"))
    assert hidden(clip, "a fox", emphasis).requires_grad is False


def weights_of(clip, text: str) -> Tensor:
    return torch.tensor([chunk.weights for chunk in clip[1].chunks(prompt(text))]).reshape(1, -1, 1)


def test_no_norm_multiplies_each_token(clip):
    text = "a (red:1.5) fox [x]"
    expected = hidden(clip, text, "ignore") * weights_of(clip, text)
    torch.testing.assert_close(hidden(clip, text, "no norm"), expected)


def test_original_restores_the_mean_of_each_chunk(clip):
    text = "a (red:1.5) fox BREAK (heart:0.5) c"
    plain = hidden(clip, text, "ignore").reshape(2, 77, -1)
    weighted = hidden(clip, text, "original").reshape(2, 77, -1)
    torch.testing.assert_close(weighted.mean((1, 2)), plain.mean((1, 2)), rtol=1e-4, atol=1e-6)
    ratio = weighted / (plain * weights_of(clip, text).reshape(2, 77, 1))
    torch.testing.assert_close(ratio.amax((1, 2)), ratio.amin((1, 2)), rtol=1e-3, atol=1e-3)


def test_interpolate_goes_from_the_empty_prompt_through_the_words(clip):
    text = "a (red:1.5) fox"
    plain, empty = hidden(clip, text, "ignore"), hidden(clip, "", "ignore")
    expected = empty + (plain - empty) * weights_of(clip, text)
    torch.testing.assert_close(hidden(clip, text, "interpolate"), expected, rtol=1e-5, atol=1e-5)
    nothing = hidden(clip, "(red:0)", "interpolate")
    torch.testing.assert_close(nothing[:, 1], empty[:, 1], rtol=1e-5, atol=1e-5)


def test_pooled_vectors_ignore_weights(clip):
    strong = encode_clip(*clip, prompt("a (red fox:2)"), clip_skip=2)
    plain = encode_clip(*clip, prompt("a (red fox:1)"), clip_skip=2)
    assert torch.equal(strong.pooled_projected, plain.pooled_projected)


@pytest.mark.parametrize("weight", [0.0, -1.0, 10.0, -10.0])
@pytest.mark.parametrize("emphasis", ["original", "no norm", "interpolate"])
def test_extreme_weights_stay_finite(clip, emphasis, weight):
    assert hidden(clip, f"(a red fox:{weight})", emphasis).isfinite().all()


def test_a_mean_that_cannot_be_restored_is_left():
    states = torch.tensor([[[1.0], [-1.0], [2.0]]])
    weights = torch.tensor([[1.0, 3.0, 1.0]])  # the weighted mean is 0
    assert torch.equal(emphasise(states, weights, "original"), states * weights[..., None])
    assert emphasise(states.half(), weights, "original").dtype is torch.float16


def test_a_long_clip_reads_chunks_as_long_as_its_positions():
    config = replace(CLIP_L, positions=248)
    model, tokenizer = randomise(build_clip(config)), ClipTokenizer(config)
    assert tokenizer.count(prompt("fox " * 246)) == (246, 246)
    assert encode_clip(model, tokenizer, config, prompt("fox " * 246), clip_skip=2).hidden.shape == (1, 248, 32)
    assert encode_clip(model, tokenizer, config, prompt("fox " * 247), clip_skip=2).hidden.shape == (1, 496, 32)


def test_clip_skip_counts_layers_from_the_last(clip):
    layers = [hidden(clip, "a fox", clip_skip=skip) for skip in (1, 2, 3)]
    assert not torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[1], layers[2])


@pytest.mark.parametrize(
    ("words", "length"), [(0, 77), (50, 77), (76, 77), (77, 78), (200, 201), (255, 256), (900, 256)]
)
def test_t5_is_padded_to_77_and_grows_to_256(t5, words, length):
    assert encode_t5(*t5, prompt("red " * words)).shape == (1, length, 32)


def test_t5_ignores_weights_by_default_and_follows_them_on_demand(t5):
    text = "a (red:1.5) fox"
    plain = encode_t5(*t5, prompt("a red fox"))
    assert torch.equal(encode_t5(*t5, prompt(text)), plain)
    weighted = encode_t5(*t5, prompt(text), emphasis="no norm")
    torch.testing.assert_close(weighted[:, 2] / plain[:, 2], torch.full((1, 32), 1.5), rtol=1e-3, atol=1e-3)
    assert torch.equal(encode_t5(*t5, prompt("a red fox"), emphasis="original"), plain)
    assert encode_t5(*t5, prompt(text), emphasis="interpolate").shape == plain.shape
