"""Token ids as transformers gives them, chunks as A1111 cuts them, counters that are quick and need no torch."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from tokenizers import Tokenizer

from backend.errors import ModelCorrupt, ModelUnsupported
from backend.text import vocabularies
from backend.text.prompt import ParsedPrompt, parse_prompt
from backend.text.tokenize import MAX_CHUNKS, ClipTokenizer, T5Tokenizer, clip_tokenizer, count_tokens, length_notes
from tests.text.tiny import CLIP_G, CLIP_L, T5, info

TEXTS = [
    "",
    " ",
    "a photo of an astronaut riding a horse",
    "A  PHOTO\tof\n\nan   Astronaut",
    "Grüße aus Österreich, façade, naïve, ça, İstanbul, ΣΊΣΥΦΟΣ",
    "e\u0301 and \u00e9 are one letter",
    "🦊 🧑‍🚀👩🏽‍🎤 ❤️ fox🦊fox",
    "1girl, 2 cats, 1984, 3.14159, 100,000, ½, ²",
    "don't we're I'll they've I'm he'd it's DON'T rock'n'roll 's",
    "(best quality:1.2), [x|y] {z} <b> \\o/ ... !!! --- ///",
    "snake_case CamelCase kebab-case mail@example.org https://a.b/c?d=e",
    "שלום עולם مرحبا 你好世界 こんにちは 한국어 ไทย",
    "\u200b\ufeff zero\u00a0width\u3000space",
    "supercalifragilisticexpialidocious " * 3,
    "<end> </s> <pad>",
]


def prompt(text: str) -> ParsedPrompt:
    return parse_prompt(text, 20).parts[0].at(0)


@pytest.fixture(scope="module")
def clip() -> ClipTokenizer:
    return ClipTokenizer(CLIP_L)


@pytest.fixture(scope="module")
def t5() -> T5Tokenizer:
    return T5Tokenizer(T5)


@pytest.fixture(scope="module")
def clip_oracle():
    """transformers' tokenizer from the same vocabulary, which the shipped merges must rebuild."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    model = vocabularies.shipped_clip()
    merges = [tuple(line.split(" ")) for line in vocabularies.shipped_text("clip_merges.txt.gz").splitlines()]
    return CLIPTokenizer(vocab=model.get_vocab(), merges=merges)


@pytest.mark.oracle
@pytest.mark.parametrize("text", TEXTS)
def test_clip_ids_match_transformers(clip, clip_oracle, text):
    assert [CLIP_L.bos, *clip.ids(text), CLIP_L.eos] == clip_oracle(text).input_ids


@pytest.mark.oracle
@pytest.mark.parametrize("text", TEXTS[:-1])
def test_t5_ids_match_transformers(t5, t5_oracle, text):
    assert [*t5.ids(text), 1] == t5_oracle(text).input_ids


@pytest.fixture(scope="module")
def t5_oracle():
    from transformers import PreTrainedTokenizerFast

    shipped = Tokenizer.from_str(vocabularies.shipped_text("t5_tokenizer.json.gz"))
    return PreTrainedTokenizerFast(tokenizer_object=shipped, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def test_the_shipped_vocabularies_are_whole():
    clip = vocabularies.shipped_clip()
    assert clip.get_vocab_size() == 49408
    assert clip.token_to_id("<|startoftext|>") == 49406
    assert clip.token_to_id("!") == 0
    assert clip.token_to_id(",</w>") == 267
    assert clip.token_to_id("cat</w>") == 2368
    assert vocabularies.shipped_t5().get_vocab_size() == 32100


def test_known_ids_of_the_published_vocabularies(clip, t5):
    assert clip.ids("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert t5.ids("Studies have been shown") == [6536, 43, 118, 2008]


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\ud83e\udd8a fox", "<|endoftext|>", "x" * 100_000])
def test_any_string_gives_ids_and_never_a_mark(clip, t5, text):
    assert not {CLIP_L.bos, CLIP_L.eos} & set(clip.ids(text))
    assert all(0 <= id_ < T5.vocab_size for id_ in t5.ids(text))


def test_a_chunk_is_begin_tokens_end_padding(clip):
    (chunk,) = clip.chunks(prompt("a (cat:1.5)"))
    assert chunk.ids == (49406, 320, 2368, 49407, *(49407,) * 73)
    assert chunk.weights == (1.0, 1.0, 1.5, 1.0, *(1.0,) * 73)
    (padded_with_zero,) = ClipTokenizer(CLIP_G).chunks(prompt("a cat"))
    assert padded_with_zero.ids == (49406, 320, 2368, 49407, *(0,) * 73)


def words(count: int, *, commas: tuple[int, ...] = ()) -> str:
    """A prompt of so many one-token words, some of them commas."""
    return " ".join("," if place in commas else "cat" for place in range(count))


CHUNKS = [
    (words(0), [0]),
    (words(75), [75]),
    (words(76), [75, 1]),
    (words(150), [75, 75]),
    (words(80, commas=(60,)), [61, 19]),
    (words(80, commas=(55,)), [56, 24]),
    (words(80, commas=(54,)), [75, 5]),
    (words(80, commas=(74,)), [75, 5]),
    (words(80, commas=(60, 75)), [75, 5]),
    (words(75, commas=(60,)), [75]),
    (words(200, commas=(60, 130)), [61, 70, 69]),
    ("cat BREAK cat cat", [1, 2]),
    ("BREAK cat", [0, 1]),
    ("cat BREAK BREAK cat", [1, 0, 1]),
    ("cat BREAK ", [1]),
    (words(80) + " BREAK cat", [75, 5, 1]),
]


@pytest.mark.parametrize(("text", "lengths"), CHUNKS)
def test_chunks_end_at_75_a_near_comma_or_break(clip, text, lengths):
    chunks = clip.chunks(prompt(text))
    assert [chunk.ids.index(49407) - 1 for chunk in chunks] == lengths
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for chunk in chunks)


def test_chunking_loses_no_token(clip):
    text = "a fox, a green heart (on the right:1.2), " * 30
    kept = [id_ for chunk in clip.chunks(prompt(text)) for id_ in chunk.ids[1 : chunk.ids.index(49407)]]
    assert kept == [id_ for piece in prompt(text).chunks[0] for id_ in clip.ids(piece.text)]


def test_ten_thousand_words_are_cut_with_a_note_of_what_is_lost(clip):
    long = prompt(words(75 * MAX_CHUNKS) + " then a dragon " + words(7000))
    assert len(clip.chunks(long)) == MAX_CHUNKS
    (note,) = length_notes(info(), long)
    assert "3,000" in note
    assert "'then a dragon cat" in note
    assert length_notes(info(), prompt("a cat")) == ()
    assert len(clip.chunks(prompt("BREAK " * 16_000 + "x"))) == MAX_CHUNKS


def test_t5_reads_plain_text_and_cuts_at_its_greatest_length(t5):
    sequence = t5.sequence(prompt("a (red:1.5) fox BREAK runs"))
    assert sequence.ids == (*t5.ids("a red fox  runs"), 1)
    assert set(sequence.weights) == {1.0}
    assert sequence.cut == ""
    long = t5.sequence(prompt("red " * 255 + "green fox"))
    assert (len(long.ids), long.ids[-1]) == (256, 1)
    assert long.cut.split() == ["green", "fox"]
    (note,) = length_notes(info(), prompt("red " * 255 + "green fox"), "t5")
    assert "255" in note
    assert "green fox" in note


def test_t5_weights_follow_pieces_on_demand(t5):
    sequence = t5.sequence(prompt("a (red:1.5) fox"), weighted=True)
    assert sequence.weights == (*(1.0,) * len(t5.ids("a ")), 1.5, *(1.0,) * len(t5.ids(" fox")), 1.0)


COUNTS = [
    ("", (0, 75)),
    ("a cat", (2, 75)),
    ("(a cat:1.3)", (2, 75)),
    ("cat BREAK cat", (76, 150)),
    (words(76), (76, 150)),
    ("[cat:a cat on a cat:0.5]", (5, 75)),
    ("cat AND a cat", (2, 75)),
    ("<lora:x:1> cat", (1, 75)),
]


@pytest.mark.parametrize(("text", "expected"), COUNTS)
def test_the_counter_tells_the_longest_prompt_of_any_step(text, expected):
    assert count_tokens(info(), text) == expected
    assert count_tokens(info(), text, "clip_g") == expected


def test_the_counter_knows_t5_and_encoders_that_are_missing():
    assert count_tokens(info(), "a cat", "t5") == (3, 255)
    assert count_tokens(info(clip_l=None), "a cat") == (2, 75)
    with pytest.raises(ModelUnsupported):
        count_tokens(info(t5=None), "a cat", "t5")
    with pytest.raises(ModelUnsupported):
        clip_tokenizer(info(clip_g=None), "clip_g")


def test_counting_takes_less_than_5_ms():
    text = "a fox on the left, (a green heart:1.2) on the right, [day|night], " * 4
    count_tokens(info(), text)

    def milliseconds() -> float:
        start = time.process_time()
        count_tokens(info(), text)
        return (time.process_time() - start) * 1000

    assert any(milliseconds() < 5 for _ in range(20))  # 20 tries: a busy machine


def test_counting_imports_neither_torch_nor_transformers():
    code = "import sys, backend.text.tokenize; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_checkpoints_own_tokenizer_is_used(clip):
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    own = Tokenizer(WordLevel({"[unk]": 0, "fox": 1, "red": 2, ",": 3, "<e>": 4}, unk_token="[unk]"))
    own.pre_tokenizer = Whitespace()
    own.add_special_tokens(["<e>"])
    config = replace(CLIP_L, vocab_size=5, bos=0, eos=4, pad=4)
    small = clip_tokenizer(info(clip_l=config, tokenizer_clip=own.to_str()), "clip_l")
    assert small.ids("red fox, cat") == [2, 1, 3, 0]
    assert 4 not in small.ids("<e>")


def test_a_tokenizer_that_does_not_fit_is_a_sentence():
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        ClipTokenizer(CLIP_L, "{}")
    with pytest.raises(ModelCorrupt, match="49,408 tokens"):
        ClipTokenizer(replace(CLIP_L, vocab_size=1000))
    with pytest.raises(ModelCorrupt, match="no room"):
        ClipTokenizer(replace(CLIP_L, positions=2))
