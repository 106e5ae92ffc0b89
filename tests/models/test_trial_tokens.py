"""Models are tried on ordinary tokens, whatever the size of their vocabulary and wherever its special tokens stand."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from components.models.trial_tokens import ordinary_ids, trial_tokens


class Model:
    """The parts of a model that `trial_tokens` reads."""

    def __init__(self, size: int, stops: list[int] | None = None, **named: Any) -> None:
        self.config = LlamaConfig(vocab_size=size, **{"bos_token_id": None, "eos_token_id": None} | named)
        self.generation_config = GenerationConfig(eos_token_id=stops)


def test_ordinary_tokens_are_from_the_middle_and_no_config_names_them() -> None:
    model = Model(1000, stops=[400, 401], bos_token_id=1, eos_token_id=[500, 2], pad_token_id=300)
    assert ordinary_ids(model) == [token for token in range(250, 750) if token not in (300, 400, 401, 500)]


@pytest.mark.parametrize("size", [8, 9, 16, 40, 100])
def test_small_vocabulary_has_ordinary_tokens_that_are_no_special_ones(size: int) -> None:
    model = Model(size, bos_token_id=0, eos_token_id=1, pad_token_id=size // 2)
    ids = ordinary_ids(model)
    assert len(ids) >= 5
    assert not {0, 1, size // 2} & set(ids)
    drawn = trial_tokens(model, [12, 5, 1])
    assert [len(tokens) for tokens in drawn] == [12, 5, 1]
    assert {token for tokens in drawn for token in tokens} <= set(ids)
    assert trial_tokens(model, [12, 5, 1]) == drawn


def test_vocabulary_of_nothing_but_special_tokens_is_tried_on_them() -> None:
    assert ordinary_ids(Model(2, bos_token_id=0, eos_token_id=1)) == [0, 1]


def test_builtin_model_is_tried_on_words(starter_directory: Path) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(starter_directory),
        AutoTokenizer.from_pretrained(starter_directory),
    )
    drawn = {token for tokens in trial_tokens(model, [12, 5, 1]) for token in tokens}
    assert len(drawn) > 6
    assert not drawn & set(tokenizer.all_special_ids)
