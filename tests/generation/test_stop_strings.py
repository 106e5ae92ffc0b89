"""Responses that end at a text: where they end, what stays of them, and that every way of sampling agrees."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from components.generation.responses import _response
from components.generation.sampler import Sampled, sample
from components.generation.sampling_params import SamplingParams
from components.generation.stop_strings import StopStrings
from components.models.tokens import ChatTokenizer
from tests.models.test_rotary import LENGTHS, MODELS, drawn, fresh

MERGES = [(".", "Ċ"), ("U", "s"), ("Us", "e"), ("Use", "r"), (":", "Ġ"), (":Ġ", "H"), ("Ã", "©")]
"""Tokens that hold a part of a stop string beside other text: `.\\n`, `: H`; a whole `é` beside its bytes."""


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    """A byte-level BPE tokenizer of a few merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*alphabet, *("".join(pair) for pair in MERGES)])}
    bpe = Tokenizer(models.BPE(vocabulary, MERGES))
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(use_regex=False, add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="!"))


def ids(chat: ChatTokenizer, text: str) -> list[int]:
    tokens: list[int] = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def first_end(stops: StopStrings, tokens: Sequence[int]) -> int | None:
    """Return the number of tokens after which sampling would stop."""
    return next((length for length in range(1, len(tokens) + 1) if stops.ended(tokens[:length])), None)


@pytest.mark.parametrize(
    ("stop", "last", "kept"),
    [
        # It begins inside `.\n` and ends inside `: H`: both tokens go whole.
        (["\nUser:"], ":ĠH", "Sure"),
        (["User:"], ":ĠH", "Sure.\n"),
        (["ser"], "User", "Sure.\n"),
        (["zzz", "re"], "e", "Su"),
        # The one that is complete first counts, and of those that end together the one that begins first.
        (["Hi", "User", "\nUser"], "User", "Sure"),
        (["Sure"], "e", ""),
        (["S"], "S", ""),
    ],
)
def test_tokens_in_front_of_the_one_in_which_the_string_begins_stay(
    chat: ChatTokenizer, stop: list[str], last: str, kept: str
) -> None:
    tokens, stops = ids(chat, "Sure.\nUser: Hi"), StopStrings(stop, chat.text)
    assert chat.tokenizer.convert_ids_to_tokens(tokens) == ["S", "u", "r", "e", ".Ċ", "User", ":ĠH", "i"]
    end = first_end(stops, tokens)
    assert end is not None
    assert chat.tokenizer.convert_ids_to_tokens(tokens[end - 1]) == last
    assert stops.cut(tokens[:end]) == ids(chat, kept)


def test_string_of_a_character_of_several_bytes_ends_with_its_last_byte(chat: ChatTokenizer) -> None:
    vocabulary = chat.tokenizer.get_vocab()
    apart, whole = [vocabulary["Ã"], vocabulary["©"]], [vocabulary["Ã©"]]
    stops = StopStrings(["é"], chat.text)
    for spelled in (apart, whole):
        tokens = [*ids(chat, "caf"), *spelled]
        assert first_end(stops, tokens) == len(tokens)
        assert stops.cut(tokens) == ids(chat, "caf")
    assert first_end(stops, [*ids(chat, "caf"), vocabulary["Ã"]]) is None, "half of it is not it"
    # The last token of the answer holds half a character: a judge would read a sign that was not sampled.
    assert StopStrings(["x"], chat.text).cut([*apart, *ids(chat, "x")]) == apart


def test_response_without_the_string_is_whole(chat: ChatTokenizer) -> None:
    stops, tokens = StopStrings(["\nUser:"], chat.text), ids(chat, "Sure.\nUse it")
    assert first_end(stops, tokens) is None
    assert stops.cut(tokens) is None


def test_long_response_is_not_read_again_for_every_token(chat: ChatTokenizer) -> None:
    longest = 0

    def decode(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return chat.text(tokens)

    stops, tokens = StopStrings(["\nUser:"], decode), ids(chat, "word: " * 300)
    assert first_end(stops, tokens) is None
    assert longest < 20


@given(st.data())
def test_ends_and_cuts_are_those_of_the_whole_text(chat: ChatTokenizer, data: st.DataObject) -> None:
    vocabulary = chat.tokenizer.get_vocab()
    some = [vocabulary[token] for token in (".Ċ", "User", ":ĠH", "Ã©", "Ã", "©", "Ċ", ".", "U", "s", ":", "H", "Ġ")]
    tokens = data.draw(st.lists(st.sampled_from(some), min_size=1, max_size=30))
    stop = data.draw(st.lists(st.text(".\nUsé: H", min_size=1, max_size=4), min_size=1, max_size=3))
    stops = StopStrings(stop, chat.text)
    lengths = range(1, len(tokens) + 1)
    expected = next((n for n in lengths if any(text in chat.text(tokens[:n]) for text in stop)), None)
    assert first_end(stops, tokens) == expected
    kept = stops.cut(tokens if expected is None else tokens[:expected])
    assert (kept is None) == (expected is None)
    if kept is not None:
        text, after = chat.text(kept), chat.text(tokens[: len(kept) + 1])
        assert kept == tokens[: len(kept)]
        begin = min(place for each in stop if (place := chat.text(tokens[:expected]).find(each)) >= 0)
        assert chat.text(tokens[:expected])[:begin].startswith(text)
        assert not any(each in text for each in stop)
        assert not chat.text(tokens[:expected])[:begin].startswith(after), "the next token holds its beginning"


STOP = frozenset({1})


def letters(tokens: Sequence[int]) -> str:
    """Stands for a tokenizer whose tokens have two letters each."""
    return "".join(f"{'abcd'[token % 4]}{'abcd'[token // 4 % 4]}" for token in tokens)


def rule(stops: StopStrings | None) -> SamplingParams:
    return SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12, stop_ids=STOP, stops=stops)


def draws(model: Any, prompts: list[list[int]], stops: StopStrings | None, batch_size: int = 64) -> list[Sampled]:
    seeds = [[100 * place + number for number in range(3)] for place in range(len(prompts))]
    return sample(
        model, prompts, seeds=seeds, law=rule(stops), pad_id=0, batch_size=batch_size, on_batch=lambda batch: None
    )


def test_every_way_of_sampling_ends_where_the_tokens_spell_a_string(any_model: Any, prompts: list[list[int]]) -> None:
    """Catches a way that goes on behind the string, or whose other responses change when one ends."""
    without = draws(any_model, prompts, None)
    # Begins in the middle of one token of a response, and ends in the middle of another.
    stops = StopStrings([letters(max((each.token_ids for each in without), key=len)[3:6])[1:5]], letters)
    ended = draws(any_model, prompts, stops)
    num_ended = 0
    for whole, answer in zip(without, ended, strict=True):
        end = first_end(stops, whole.token_ids[:-1] if whole.token_ids[-1] == 1 else whole.token_ids)
        expected = whole if end is None else whole._replace(token_ids=whole.token_ids[:end], finish_reason="stop")
        assert answer == expected
        num_ended += end is not None
    assert 0 < num_ended < len(ended)
    for batch_size in (1, 2):
        assert draws(any_model, prompts, stops, batch_size) == ended


def test_string_across_two_parts_of_a_decoding_ends_the_response() -> None:
    """Positions that change their frequencies are decoded in parts, and each part knows its own tokens only."""
    stops = StopStrings(["bcd", "aab", "ddc", "cab", "bda"], letters)
    num_ended = 0
    for name in MODELS:
        prompts = drawn(LENGTHS)
        without, ended = draws(fresh(name), prompts, None), draws(fresh(name), prompts, stops)
        for whole, answer in zip(without, ended, strict=True):
            words = [token for token in whole.token_ids if token != 1]
            end = first_end(stops, words)
            if end is None:
                assert answer == whole
            else:
                # A string that two parts share is seen when the second one ends.
                assert answer.finish_reason == "stop"
                assert answer.token_ids[:end] == words[:end]
                assert stops.cut(answer.token_ids) == stops.cut(words[:end])
                num_ended += 1
    assert num_ended


def test_response_that_ended_at_a_string_has_no_stop_token_and_no_part_of_it(chat: ChatTokenizer) -> None:
    law = rule(StopStrings(["\nUser:"], chat.text))
    answer = _response(Sampled(0, 0, ids(chat, "Sure.\nUser: H"), "stop"), chat, law)
    assert (answer.text, answer.token_ids) == ("Sure", ids(chat, "Sure"))
    assert (answer.finish_reason, answer.stopped_by_text, answer.unfinished) == ("stop", True, False)
    empty = _response(Sampled(0, 0, ids(chat, ".\nUser:"), "stop"), chat, law)
    assert (empty.text, empty.token_ids, empty.empty) == ("", [], True)
    ended = _response(Sampled(0, 0, [*ids(chat, "Sure"), 1], "stop"), chat, law)
    assert (ended.text, ended.token_ids, ended.stopped_by_text) == ("Sure", [*ids(chat, "Sure"), 1], False)
    cut = _response(Sampled(0, 0, ids(chat, "Sure.\nUse"), "length"), chat, law)
    assert (cut.text, cut.finish_reason, cut.unfinished) == ("Sure.\nUse", "length", True)
