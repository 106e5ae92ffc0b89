"""Packed attention in each of its ways against plain attention over one row after the other."""

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from components.dpo.packed import attention as packed_attention
from components.dpo.packed.attention import CannotPack, attention
from components.dpo.packed.layout import Packed

PROMPTS = [[1, 2, 3], [1, 2, 3], [4, 5], [1, 2, 3], [6]]
RESPONSES = [[7, 8], [9, 1, 2, 3, 4], [5], [6, 7], [8, 9, 1]]
HEADS, KEY_HEADS, SIZE, SCALE = 4, 2, 8, 0.3


@pytest.fixture
def layout() -> Packed:
    return Packed(PROMPTS, RESPONSES, torch.device("cpu"))


def by_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Packed) -> torch.Tensor:
    """Each response's prompt and itself alone; (1, tokens, heads, head size)."""
    key, value = (states.repeat_interleave(HEADS // KEY_HEADS, dim=1) for states in (key, value))
    out = torch.zeros_like(query)
    for segment in layout.segments:
        places = [
            *range(segment.prompt_start, segment.prompt_start + segment.prompt_length),
            *range(segment.start, segment.start + segment.length),
        ]
        own = scaled_dot_product_attention(query[:, :, places], key[:, :, places], value[:, :, places], is_causal=True, scale=SCALE)
        # Every response of a prompt gives the prompt's own places the same.
        out = out.index_copy(2, torch.tensor(places), own)
    return out.transpose(1, 2)


WAYS = ["blocks", "flash", "masked"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "flash":
        monkeypatch.setattr(packed_attention, "LONGEST_BLOCK", {torch.float32: 0, torch.bfloat16: 0})
    if request.param == "masked":
        monkeypatch.setattr(packed_attention, "_FLASH", None)
    return str(request.param)


def states(dtype: torch.dtype, tokens: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(1, heads, tokens, SIZE, generator=draw).to(dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def test_packed_attention_and_its_gradients_are_those_of_single_rows(way: str, layout: Packed) -> None:
    factors = torch.randn(1, layout.num_tokens, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    results: list[Any] = []
    for compute in (
        lambda *qkv: attention(torch.nn.Identity(), *qkv, None, scaling=SCALE, packed=layout)[0],
        lambda *qkv: by_rows(*qkv, layout),
    ):
        leaves = [tensor.requires_grad_() for tensor in states(torch.float32, layout.num_tokens)]
        out = compute(*leaves)
        (out * factors).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    # Gradients of rows that share a prompt differ in one thing: the plain rows compute the prompt's own outputs once each, and only the
    # last of them stands in the result.
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    for found, expected in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_packed_attention_in_bfloat16_is_near_fp32(way: str, layout: Packed) -> None:
    low, high = states(torch.bfloat16, layout.num_tokens), [tensor.float() for tensor in states(torch.bfloat16, layout.num_tokens)]
    found = attention(torch.nn.Identity(), low[0], low[1], low[2], None, scaling=SCALE, packed=layout)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), by_rows(high[0], high[1], high[2], layout), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"softcap": 50.0}, "its attention has softcap"),
        ({"s_aux": torch.zeros(1)}, "its attention has s_aux"),
        ({"dropout": 0.1}, "its attention has dropout"),
        ({"sliding_window": 7}, "a sliding window of 7 tokens, and a prompt and response of 8"),
    ],
)
def test_packed_attention_refuses_what_it_does_not_compute(words: dict[str, Any], reason: str, layout: Packed) -> None:
    query, key, value = states(torch.float32, layout.num_tokens)
    with pytest.raises(CannotPack, match=reason):
        attention(torch.nn.Identity(), query, key, value, None, scaling=SCALE, packed=layout, **words)
    attention(torch.nn.Identity(), query, key, value, None, scaling=SCALE, packed=layout, softcap=None, sliding_window=8)


def test_varlen_gives_every_response_the_keys_of_its_prompt(layout: Packed) -> None:
    """The GPU's way needs a GPU; what it is told is checked here."""
    places, of_queries, of_keys, longest = packed_attention._varlen(layout, torch.device("cpu"))
    row = layout.input_ids[0]
    begins = list(zip(of_keys.tolist(), of_keys.tolist()[1:], strict=False))
    seen = [row[places[begin:end]].tolist() for begin, end in begins]
    assert sorted(seen) == sorted(prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True))
    assert of_queries[-1] == layout.num_tokens
    assert longest == max(of_queries.diff()).item()
    assert packed_attention._varlen(layout, torch.device("cpu"))[0] is places
