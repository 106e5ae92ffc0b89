"""Packed attention by each of its methods against plain attention over one row after the other."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from components.scoring.packed import attention as packed_attention
from components.scoring.packed import layout as packed_layout
from components.scoring.packed import on_cpu
from components.scoring.packed.attention import CannotPack, attention
from components.scoring.packed.layout import Packed

PROMPTS = [[1, 2, 3], [1, 2, 3], [4, 5], [1, 2, 3], [6]]
RESPONSES = [[7, 8], [9, 1, 2, 3, 4], [5], [6, 7], [8, 9, 1]]
HEADS, KEY_HEADS, SIZE, SCALE = 4, 2, 8, 0.3


@pytest.fixture
def layout() -> Packed:
    return Packed(PROMPTS, RESPONSES, torch.device("cpu"), torch.float32)


@pytest.fixture(params=[0, 5], ids=["not filled up", "filled up"])
def filled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """A row as it is, and one with tokens behind it that nothing sees."""
    monkeypatch.setattr(packed_layout, "pad_rows", lambda *_: request.param)
    made = Packed(PROMPTS, RESPONSES, torch.device("cpu"), torch.float32)
    assert made.input_ids.shape == made.position_ids.shape == (1, made.num_tokens + request.param)
    return made


def by_rows(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Packed) -> torch.Tensor:
    """Each response's prompt and itself alone; (1, tokens, heads, head size)."""
    key, value = (states.repeat_interleave(HEADS // KEY_HEADS, dim=1) for states in (key, value))
    out = torch.zeros_like(query)
    for segment in layout.segments:
        places = [
            *range(segment.prompt_start, segment.prompt_start + segment.prompt_length),
            *range(segment.start, segment.start + segment.length),
        ]
        own = scaled_dot_product_attention(
            query[:, :, places], key[:, :, places], value[:, :, places], is_causal=True, scale=SCALE
        )
        # Every response of a prompt gives the prompt's own places the same.
        out = out.index_copy(2, torch.tensor(places), own)
    return out.transpose(1, 2)


WAYS = ["blocks", "pieces", "flash", "masked"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pieces":
        monkeypatch.setattr(on_cpu, "QUERIES_TOGETHER", 2)
    if request.param == "flash":
        monkeypatch.setattr(on_cpu, "LONGEST_BLOCK", 0)
    if request.param == "masked":
        monkeypatch.setattr(on_cpu, "_FLASH", None)
    return str(request.param)


def states(dtype: torch.dtype, tokens: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    return [torch.randn(1, heads, tokens, SIZE, generator=draw).to(dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def test_packed_attention_and_its_gradients_are_those_of_single_rows(way: str, filled: Packed) -> None:
    layout, width = filled, filled.input_ids.shape[1]
    factors = torch.randn(1, width, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    results: list[Any] = []
    for compute in (
        lambda *qkv: attention(torch.nn.Identity(), *qkv, None, scaling=SCALE, packed=layout)[0],
        lambda *qkv: by_rows(*qkv, layout),
    ):
        leaves = [tensor.requires_grad_() for tensor in states(torch.float32, width)]
        out = compute(*leaves)
        (out * factors).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    # Gradients of rows that share a prompt differ in one thing: the plain rows compute the prompt's own outputs once
    # each, and only the last of them stands in the result.
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    for found, expected in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_packed_attention_in_bfloat16_is_near_fp32(way: str, layout: Packed) -> None:
    low, high = (
        states(torch.bfloat16, layout.num_tokens),
        [tensor.float() for tensor in states(torch.bfloat16, layout.num_tokens)],
    )
    found = attention(torch.nn.Identity(), low[0], low[1], low[2], None, scaling=SCALE, packed=layout)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), by_rows(high[0], high[1], high[2], layout), atol=2e-2, rtol=2e-2)


def drawn(seed: int) -> Packed:
    """Two prompts with three responses each, of lengths that differ between seeds."""
    chance = torch.Generator().manual_seed(seed)
    lengths = [int(torch.randint(3, 190, (), generator=chance)) for _ in range(8)]
    prompts = [[1] * lengths[0]] * 3 + [[2] * lengths[1]] * 3
    return Packed(prompts, [[3] * length for length in lengths[2:]], torch.device("cpu"), torch.bfloat16)


def gradients_in(layout: Packed, dtype: torch.dtype, compute: Any) -> list[torch.Tensor]:
    """Of query, key and value, for states that are exact in bf16; the output first."""
    leaves = [tensor.to(dtype).requires_grad_() for tensor in states(torch.bfloat16, layout.input_ids.shape[1])]
    out = compute(*leaves)
    factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).bfloat16().to(dtype)
    factors[:, layout.num_tokens :] = 0
    (out * factors).sum().backward()
    return [out.detach().float(), *(leaf.grad.float() for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("seed", range(4))
def test_packed_attention_in_bfloat16_of_any_lengths_has_gradients_near_fp32s(seed: int) -> None:
    layout = drawn(seed)
    found = gradients_in(
        layout, torch.bfloat16, lambda *qkv: attention(torch.nn.Identity(), *qkv, None, scaling=SCALE, packed=layout)[0]
    )
    expected = gradients_in(layout, torch.float32, lambda *qkv: by_rows(*qkv, layout))
    assert len(found) == len(expected) == 4
    for low, high in zip(found, expected, strict=True):
        assert (low - high).norm() < 1e-2 * high.norm()


class Products(TorchDispatchMode):
    """Records the shapes of bf16 matrix products, for each of which oneDNN compiles a primitive."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default and args[0].dtype == torch.bfloat16:
            self.shapes.append((args[0].shape, args[1].shape))
        return func(*args, **(kwargs or {}))


def test_packed_attention_in_bfloat16_multiplies_few_shapes() -> None:
    with Products() as products:
        for layout in map(drawn, range(40)):
            query, key, value = (
                tensor.requires_grad_() for tensor in states(torch.bfloat16, layout.input_ids.shape[1])
            )
            attention(torch.nn.Identity(), query, key, value, None, scaling=SCALE, packed=layout)[0].sum().backward()
    assert len(products.shapes) > 1200
    assert len(set(products.shapes)) < len(products.shapes) / 4


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"softcap": 50.0}, "its attention has softcap"),
        ({"s_aux": torch.zeros(1)}, "its attention has s_aux"),
        ({"dropout": 0.1}, "its attention has dropout"),
        ({"sliding_window": 7}, "its sliding window of 7 tokens is shorter than a prompt and response of 8"),
    ],
)
def test_packed_attention_refuses_what_it_does_not_compute(words: dict[str, Any], reason: str, layout: Packed) -> None:
    query, key, value = states(torch.float32, layout.num_tokens)
    with pytest.raises(CannotPack, match=reason):
        attention(torch.nn.Identity(), query, key, value, None, scaling=SCALE, packed=layout, **words)
    attention(
        torch.nn.Identity(), query, key, value, None, scaling=SCALE, packed=layout, softcap=None, sliding_window=8
    )


def plain_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: tuple[torch.Tensor, torch.Tensor], scale: float
) -> torch.Tensor:
    """Compute what the GPU's kernel does, run by run: queries are the last of their keys, and see none behind them."""
    out = []
    of_queries, of_keys = (list(pairwise(running.tolist())) for running in ends)
    for (begin, end), (first, last) in zip(of_queries, of_keys, strict=True):
        seen = torch.ones(end - begin, last - first, dtype=torch.bool).tril(last - first - (end - begin))
        rows, keys, values = (
            states.transpose(0, 1) for states in (query[begin:end], key[first:last], value[first:last])
        )
        out.append(scaled_dot_product_attention(rows, keys, values, attn_mask=seen, scale=scale).transpose(0, 1))
    return torch.cat(out)


def varlen_of_torch_2_13(
    query: Any,
    key: Any,
    value: Any,
    cu_q: Any,
    cu_k: Any,
    max_q: int,
    max_k: int,
    *,
    scale: Any,
    window_size: Any,
    enable_gqa: Any = False,
) -> Any:
    assert window_size == (-1, 0)
    if enable_gqa:
        key, value = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    return varlen_of_torch_2_11(query, key, value, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size)


def varlen_of_torch_2_11(
    query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, *, scale: Any, window_size: Any
) -> Any:
    assert window_size == (-1, 0)
    assert query.shape[1] == key.shape[1], "the kernel is told nothing of shared heads"
    assert query.is_contiguous()
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    return plain_varlen(query, key, value, (cu_q, cu_k), scale)


@pytest.mark.parametrize("varlen", [varlen_of_torch_2_13, varlen_of_torch_2_11])
def test_attention_of_a_gpu_is_that_of_single_rows(
    varlen: Any, layout: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the kernel itself, which needs a GPU.

    A stand-in with its signature computes what it is documented to compute.
    """
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    results: list[Any] = []
    for compute in (lambda *qkv: packed_attention._on_gpu(*qkv, layout, SCALE), lambda *qkv: by_rows(*qkv, layout)):
        leaves = [tensor.requires_grad_() for tensor in states(torch.float32, layout.num_tokens)]
        out = compute(*leaves)
        (out * torch.arange(out.numel()).view(out.shape).cos()).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_varlen_gives_every_response_the_keys_of_its_prompt(layout: Packed) -> None:
    """The kernel needs a GPU; its arguments are checked here."""
    places, of_queries, of_keys, longest = packed_attention._varlen(layout, torch.device("cpu"))
    row = layout.input_ids[0]
    begins = list(zip(of_keys.tolist(), of_keys.tolist()[1:], strict=False))
    seen = [row[places[begin:end]].tolist() for begin, end in begins]
    assert sorted(seen) == sorted(prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True))
    assert of_queries[-1] == layout.num_tokens
    assert longest == max(of_queries.diff()).item()
    assert packed_attention._varlen(layout, torch.device("cpu"))[0] is places


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_attention_keeps_a_response_s_nan_from_the_others(way: str, dtype: torch.dtype) -> None:
    layout = drawn(0)
    query, key, value = states(dtype, layout.input_ids.shape[1])
    for number in (2, 5):
        _, own = layout.segments[number].places
        for tensor in (query, key, value):
            tensor[:, :, own] = torch.nan
    out = attention(torch.nn.Identity(), query, key, value, None, scaling=SCALE, packed=layout)[0]
    for number, segment in enumerate(layout.segments):
        _, own = segment.places
        assert bool(out[:, own].isnan().all()) == (number in (2, 5)), number
        assert bool(out[:, own].isnan().any()) == (number in (2, 5)), number
