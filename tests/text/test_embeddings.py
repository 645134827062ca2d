"""Textual inversions in prompts: found by name, as many tokens as rows, whole within a chunk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.errors import ModelCorrupt, NotFound
from backend.formats.detect import detect
from backend.formats.embeddings import EmbeddingInfo, EmbeddingVectors
from backend.formats.reader import read_header
from backend.text.embeddings import EmbeddingWords, embedding_notes, embeddings_in, read_rows
from backend.text.encode import encode_clip, encode_t5
from backend.text.encoders import build_clip, build_t5
from backend.text.prompt import ParsedPrompt, parse_prompt
from backend.text.splice import spliced
from backend.text.tokenize import ClipTokenizer, T5Tokenizer, count_tokens
from tests.builders import randomise
from tests.text.tiny import CLIP_G, CLIP_L, T5, info


def named(name: str, count: int = 2, width: int = CLIP_L.width, part=None, key: str = "emb_params") -> EmbeddingInfo:
    return EmbeddingInfo(Path(f"{name}.safetensors"), name, (EmbeddingVectors(part, key, count, width),))


def words_of(*embeddings: EmbeddingInfo) -> EmbeddingWords:
    return EmbeddingWords([(each.name, each) for each in embeddings])


def prompt(text: str, words: EmbeddingWords) -> ParsedPrompt:
    return words.in_plan(parse_prompt(text, 20)).parts[0].at(0)


def found(text: str, *names: str) -> list[tuple[str, str]]:
    """(text, name) of each piece that is an embedding."""
    parsed = prompt(text, words_of(*map(named, names)))
    return [(piece.text, piece.embedding.name) for chunk in parsed.chunks for piece in chunk if piece.embedding]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved({"emb_params": tensor}, name)``: a real file, as detection sees it."""
    folder = tmp_path_factory.mktemp("embeddings")

    def save(tensors: dict[str, torch.Tensor], name: str = "toy") -> EmbeddingInfo:
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        told = detect(read_header(path))
        assert isinstance(told, EmbeddingInfo)
        return told

    return save


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("a toy fox", ["toy"], [("toy", "toy")]),
        ("a TOY, (Toy:1.3) [toy]", ["toy"], [("TOY", "toy"), ("Toy", "toy"), ("toy", "toy")]),
        ("a toyshop with destroyers", ["toy"], []),
        ("toy_2 toy2 toy-2", ["toy"], [("toy", "toy")]),
        ("toy-2 toy", ["toy", "toy-2"], [("toy-2", "toy-2"), ("toy", "toy")]),
        ("bad-hands-5, bad", ["bad-hands-5", "bad", "bad-hands"], [("bad-hands-5", "bad-hands-5"), ("bad", "bad")]),
        ("a  my\n style b", ["My Style"], [("my\n style", "My Style")]),
        (r"x \(v1\)", ["x (v1)"], [("x (v1)", "x (v1)")]),
        ("caf\u00e9", ["cafe\u0301"], [("caf\u00e9", "cafe\u0301")]),  # macOS takes file names apart
        ("2b, b2", ["2b"], [("2b", "2b")]),
        ("toy toy", ["toy"], [("toy", "toy")] * 2),
        ("[toy:cat:5]", ["toy"], [("toy", "toy")]),
        ("", ["toy"], []),
    ],
)  # fmt: skip
def test_names_are_found_between_word_boundaries_the_longest_first(text, names, expected):
    assert found(text, *names) == expected


def test_the_text_stays_the_same_and_weights_are_kept():
    parsed = prompt("a (toy:1.3) fox BREAK toy", words_of(named("toy")))
    assert parsed == words_of(named("toy")).in_prompt(parsed)  # twice is once
    assert parsed.text == parse_prompt("a (toy:1.3) fox BREAK toy", 20).parts[0].at(0).text
    assert [piece.weight for chunk in parsed.chunks for piece in chunk if piece.embedding] == [1.3, 1.0]
    assert [embedding.name for embedding in embeddings_in([parsed, parsed])] == ["toy"]


def test_names_are_known_whatever_their_case():
    words = words_of(named("My Style"))
    assert "my  STYLE" in words
    assert "" not in words
    assert "my" not in words


def test_of_two_files_with_one_name_the_first_counts():
    first, second = named("toy", count=1), named("toy", count=5)
    assert embeddings_in([prompt("toy", words_of(first, second))]) == (first,)


def test_an_embedding_counts_as_many_tokens_as_it_has_rows():
    words = words_of(named("toy", 8), replace(named("t5toy", 3, T5.width, "t5", "t5xxl")))
    assert count_tokens(info(), "a toy fox", words=words) == (10, 75)
    assert count_tokens(info(), "a toy fox") == (3, 75)
    assert count_tokens(info(), "a toy fox", "clip_g", words=words) == (3, 75)  # nothing for that width
    assert count_tokens(info(), "t5toy", "t5", words=words) == (3, 255)


@pytest.mark.parametrize("before", [60, 68, 71, 75, 76])
def test_an_embedding_is_never_split(before):
    tokenizer = ClipTokenizer(CLIP_L)
    parsed = prompt("fox " * before + "toy" + " hat" * 40, words_of(named("toy", 8)))
    chunks = tokenizer.chunks(parsed)
    holding = [chunk for chunk in chunks if chunk.rows]
    assert len(holding) == 1
    places = [place for place, _ in holding[0].rows]
    assert places == list(range(places[0], places[0] + 8))
    assert [row.number for _, row in holding[0].rows] == list(range(8))
    first = before % 75 if before % 75 + 8 <= 75 else 0
    assert places[0] == 1 + first
    used = sum(sum(weight == 1.0 for weight in chunk.weights) for chunk in chunks)
    assert used == 77 * len(chunks)


def test_two_embeddings_side_by_side_are_two():
    chunks = ClipTokenizer(CLIP_L).chunks(prompt("fox " * 70 + "toy toy", words_of(named("toy", 4))))
    assert [len(chunk.rows) for chunk in chunks] == [4, 4]
    assert [row.number for _, row in chunks[1].rows] == [0, 1, 2, 3]


def test_t5_cuts_before_an_embedding_not_within_it():
    tokenizer = T5Tokenizer(replace(T5, max_length=20))
    words = words_of(named("toy", 4, T5.width, "t5", "t5xxl"))
    whole = tokenizer.sequence(prompt("red " * 15 + "toy", words))
    assert (len(whole.rows), whole.cut) == (4, "")
    cut = tokenizer.sequence(prompt("red " * 17 + "toy fox", words))
    assert (len(cut.ids), cut.rows, cut.cut) == (18, (), "toy fox")


def test_an_embedding_without_rows_for_an_encoder_is_words_there():
    plain, words = ClipTokenizer(CLIP_G), words_of(named("toy", 8))
    assert plain.chunks(prompt("a (toy:1.3) fox", words)) == plain.chunks(prompt("a (toy:1.3) fox", EmbeddingWords()))
    t5 = T5Tokenizer(T5)
    assert t5.sequence(prompt("a (toy:1.3) fox", words)) == t5.sequence(prompt("a (toy:1.3) fox", EmbeddingWords()))


def test_what_an_encoder_cannot_read_is_told():
    readers = {"clip_l": ClipTokenizer(CLIP_L, part="clip_l"), "clip_g": ClipTokenizer(CLIP_G, part="clip_g")}

    def told(embedding: EmbeddingInfo) -> tuple[str, ...]:
        return embedding_notes("tiny", dict.fromkeys(readers, (embedding,)), readers)

    (wrong,) = told(named("toy", width=1024))
    assert wrong == (
        "The embedding toy was made for another model: its vectors have width 1024, and tiny takes CLIP-L 32, "
        "CLIP-G 48. Its name is read as words."
    )
    (half,) = told(named("toy"))
    assert half == "The embedding toy has nothing for CLIP-G, which reads its name as words."
    (long,) = told(named("toy", count=76))
    assert "has 76 tokens, more than CLIP-L" in long
    (swapped,) = told(named("toy", width=CLIP_L.width, part="clip_g", key="clip_g"))  # the width is CLIP-L's
    assert "another model" in swapped
    both = replace(
        named("toy"),
        vectors=(
            *named("", 2, CLIP_L.width, "clip_l", "clip_l").vectors,
            *named("", 2, CLIP_G.width, "clip_g").vectors,
        ),
    )
    assert told(both) == ()


def test_rows_longer_than_a_chunk_are_not_read():
    tokenizer = ClipTokenizer(CLIP_L)
    assert read_rows(named("toy", 75), tokenizer) is not None
    assert read_rows(named("toy", 76), tokenizer) is None


@pytest.mark.parametrize("config", [CLIP_L, CLIP_G], ids=["clip_l", "clip_g"])
def test_a_row_equal_to_a_token_s_own_gives_that_token_s_bits(saved, config):
    """An embedding that holds the encoder's own rows for "red fox" reads as "red fox"."""
    model, tokenizer = randomise(build_clip(config)), ClipTokenizer(config)
    own = model.text_model.embeddings.token_embedding.weight
    ids = tokenizer.ids("red fox")
    words = words_of(saved({"emb_params": own[ids]}, f"own{config.width}"))
    for text in ("a {} on a hill", "a ({}:1.4), b", "fox " * 80 + "{}", "a BREAK {} AND"):
        ours = encode_clip(model, tokenizer, config, prompt(text.format(f"own{config.width}"), words), clip_skip=2)
        theirs = encode_clip(model, tokenizer, config, prompt(text.format("red fox"), words), clip_skip=2)
        assert torch.equal(ours.hidden, theirs.hidden)
        assert torch.equal(ours.pooled_projected, theirs.pooled_projected)


def test_the_same_in_t5(saved):
    model, tokenizer = randomise(build_t5(T5)), T5Tokenizer(T5)
    ids = tokenizer.ids("red fox")
    words = words_of(saved({"t5xxl": model.shared.weight[ids]}, "own"))
    for emphasis in ("ignore", "original"):
        ours = encode_t5(model, tokenizer, T5, prompt("a (own:1.5) hat", words), emphasis=emphasis)
        theirs = encode_t5(model, tokenizer, T5, prompt("a (red fox:1.5) hat", words), emphasis=emphasis)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_number_format_and_a_single_row_are_read(saved, dtype):
    model, tokenizer = randomise(build_clip(CLIP_L)), ClipTokenizer(CLIP_L)
    vector = torch.linspace(-1, 1, CLIP_L.width, dtype=dtype)
    toy = saved({"<toy>": vector}, f"one-{str(dtype).removeprefix('torch.')}")
    chunk = tokenizer.chunks(prompt(f"a {toy.name}", words_of(toy)))[0]
    lookup = model.text_model.embeddings.token_embedding
    with spliced(lookup, [chunk.rows]):
        states = lookup(torch.tensor([chunk.ids]))
    assert torch.equal(states[0, 2], vector.float())
    assert torch.equal(lookup(torch.tensor([chunk.ids])), lookup.weight[torch.tensor([chunk.ids])])  # undone


def test_a_file_that_went_or_changed_is_a_sentence(saved):
    model, tokenizer = randomise(build_clip(CLIP_L)), ClipTokenizer(CLIP_L)
    toy = saved({"emb_params": torch.zeros(3, CLIP_L.width)}, "changing")
    words = words_of(toy)
    saved({"emb_params": torch.zeros(2, CLIP_L.width)}, "changing")
    with pytest.raises(ModelCorrupt, match=r"changing\.safetensors was changed"):
        encode_clip(model, tokenizer, CLIP_L, prompt("a changing fox", words), clip_skip=2)
    toy.path.unlink()
    with pytest.raises(NotFound, match=r"changing\.safetensors"):
        encode_clip(model, tokenizer, CLIP_L, prompt("a changing fox", words), clip_skip=2)
    assert not model.text_model.embeddings.token_embedding._forward_hooks


def test_thousands_of_names_and_a_long_prompt_take_little_time():
    import time

    words = words_of(*(named(f"bad-{number}-style") for number in range(5000)))
    text = "bad-4999-style, bad style, " * 2000
    start = time.process_time()
    parsed = prompt(text, words)
    assert time.process_time() - start < 2
    assert sum(piece.embedding is not None for piece in parsed.chunks[0]) == 2000
