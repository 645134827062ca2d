"""The own vocabulary: the grammar's words are single pieces, any text can be written, and ids are where configs say."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from backend.training.captions import all_words
from backend.training.vocabulary import load_vocabulary, save_vocabulary


@pytest.fixture
def clip(vocabulary):
    return Tokenizer.from_str(vocabulary.clip_json)


@pytest.fixture
def t5(vocabulary):
    return Tokenizer.from_str(vocabulary.t5_json)


def test_nearly_every_word_of_the_grammar_is_one_piece(clip):
    whole = [word for word in all_words() if len(clip.encode(word).ids) == 1]
    assert len(whole) > 0.97 * len(all_words())


@pytest.mark.parametrize("text", ["an astronaut riding a horse", "café ünïcødé", "日本 🦊", "4k, (best) [x]"])
def test_any_text_survives_encoding_and_decoding(clip, text):
    decoded = clip.decode(clip.encode(text).ids).replace("</w>", " ")
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_special_ids_lie_where_the_configs_say(vocabulary, clip, t5):
    assert clip.token_to_id("<|startoftext|>") == vocabulary.bos
    assert clip.token_to_id("<|endoftext|>") == vocabulary.eos
    assert (t5.token_to_id("<pad>"), t5.token_to_id("</s>")) == (0, 1)
    assert clip.get_vocab_size() == vocabulary.clip_size
    assert t5.get_vocab_size() == vocabulary.t5_size


def test_case_does_not_matter(clip):
    assert clip.encode("A Fox").ids == clip.encode("a fox").ids


def test_a_run_keeps_the_vocabulary_that_its_weights_know(vocabulary, tmp_path):
    save_vocabulary(vocabulary, tmp_path / "run" / "vocabulary.json")
    assert load_vocabulary(tmp_path / "run" / "vocabulary.json") == vocabulary
