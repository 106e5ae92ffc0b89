"""The last layer computes only the rows that are read, and is unchanged afterwards."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from components.scoring.packed.last_layer import ROW_BY_ROW, only_what_is_read
from components.scoring.packed.layout import Packed

CPU = torch.device("cpu")
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "pad_token_id": 0,
}
LAYOUT = Packed([[5] * 20, [5] * 20, [9] * 7], [[1, 2, 3], [4, 5], [6]], CPU, torch.float32)


@pytest.fixture
def model() -> Any:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), attn_implementation="sdpa").eval()


def rows_seen(model: Any, layout: Packed) -> dict[str, int]:
    """Number of rows that each module of both layers reads."""
    seen = {}
    handles = []
    with only_what_is_read(model, layout):
        for number, layer in enumerate(model.model.layers):
            for name in (*ROW_BY_ROW, "self_attn.k_proj"):

                def note(_: Any, args: Any, __: Any, key: str = f"{number} {name}") -> None:
                    seen[key] = args[0].shape[1]

                handles.append(layer.get_submodule(name).register_forward_hook(note))
        model(input_ids=layout.input_ids, position_ids=layout.position_ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def test_last_layer_projects_only_rows_that_are_read_and_keys_of_all(model: Any) -> None:
    total, read = LAYOUT.input_ids.shape[1], len(LAYOUT.read)
    assert read < total / 2
    seen = rows_seen(model, LAYOUT)
    assert {seen[f"0 {name}"] for name in ROW_BY_ROW} == {total}
    assert {seen[f"1 {name}"] for name in ROW_BY_ROW} == {read}
    assert seen["1 self_attn.k_proj"] == total


def test_rows_that_are_read_hold_every_place_that_predicts_once() -> None:
    assert set(LAYOUT.places.tolist()) <= set(LAYOUT.read.tolist())
    assert LAYOUT.read.tolist() == sorted(set(LAYOUT.read.tolist()))


def test_rows_are_all_kept_where_nearly_all_are_read(model: Any) -> None:
    layout = Packed([[5], [6]], [[1] * 12, [2] * 12], CPU, torch.float32)
    assert set(rows_seen(model, layout).values()) == {layout.input_ids.shape[1]}


def test_layer_that_is_computed_again_is_left_as_it_is(model: Any) -> None:
    model.activation_checkpointing_enable()
    assert set(rows_seen(model, LAYOUT).values()) == {LAYOUT.input_ids.shape[1]}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=LAYOUT.input_ids, position_ids=LAYOUT.position_ids, use_cache=False
        ).logits
    return found


def test_what_is_read_is_the_same_and_the_rest_is_not(model: Any) -> None:
    before = logits(model)
    with only_what_is_read(model, LAYOUT):
        inside = logits(model)
    unread = [place for place in range(LAYOUT.num_tokens) if place not in set(LAYOUT.read.tolist())]
    torch.testing.assert_close(inside[:, LAYOUT.read], before[:, LAYOUT.read])
    assert not torch.allclose(inside[:, unread], before[:, unread])


def test_model_is_its_own_again_after_an_error(model: Any) -> None:
    before = logits(model)
    with pytest.raises(IndexError), only_what_is_read(model, LAYOUT):
        model(input_ids=torch.full_like(LAYOUT.input_ids, 1000), use_cache=False)
    assert torch.equal(logits(model), before)


def test_layers_with_other_names_are_left_as_they_are() -> None:
    model = AutoModelForCausalLM.from_config(Phi3Config(**SIZES), attn_implementation="sdpa").eval()
    with only_what_is_read(model, LAYOUT):
        inside = logits(model)
    assert torch.equal(logits(model), inside)
