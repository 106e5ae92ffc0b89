"""The head's log-probabilities and gradients against torch's own, for all ways to keep or recompute logits."""

import weakref
from typing import Any

import pytest
import torch

from components.scoring import head
from components.scoring.head import column_logps

ROWS, HIDDEN, VOCABULARY = 700, 24, 90
ODD = 637
"""A number of rows that is padded in bf16."""


def plain(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, columns: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(hidden, weight, bias).float().log_softmax(dim=1).gather(1, columns)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(rows, HIDDEN, generator=draw) for rows in (ROWS, VOCABULARY))
    return hidden, weight, torch.randn(VOCABULARY, generator=draw), torch.randint(VOCABULARY, (ROWS, 2), generator=draw)


@pytest.mark.parametrize("kept_bytes", [0, 2**30], ids=["computed again", "kept"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("trained", ["everything", "hidden"])
@pytest.mark.parametrize("columns_each", [1, 2])
def test_column_logps_and_gradients_are_the_plain_ones(
    kept_bytes: int,
    biased: bool,
    trained: str,
    columns_each: int,
    inputs: tuple[torch.Tensor, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(head, "TILE_BYTES", {True: 0, False: 0})  # so that the rows are several products
    monkeypatch.setattr(head, "CACHED_BYTES", 17 * 4 * VOCABULARY)  # so that a product's rows are many softmaxes
    hidden, weight, bias, columns = inputs
    columns = columns[:, :columns_each]
    factors = torch.linspace(-1, 1, ROWS * columns_each).view(ROWS, columns_each)
    results = []
    for way in (column_logps, plain):
        leaves = [
            tensor.clone().requires_grad_(name == "hidden" or trained == "everything")
            for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias))
        ]
        logps = way(leaves[0], leaves[1], leaves[2] if biased else None, columns)
        (logps * factors).sum().backward()
        results.append((logps.detach(), [leaf.grad for leaf in leaves]))
    (found, gradients), (expected, wanted) = results
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for gradient, want in zip(gradients, wanted, strict=True):
        assert (gradient is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(gradient, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kept_bytes", [0, 2**30], ids=["computed again", "kept"])
@pytest.mark.parametrize("trained", ["everything", "hidden", "nothing"])
@pytest.mark.parametrize("columns_each", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_column_logps_fills_the_entropies_and_changes_no_bit_for_them(
    kept_bytes: int,
    trained: str,
    columns_each: int,
    dtype: torch.dtype,
    inputs: tuple[torch.Tensor, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A masked token has probability zero and a logit of minus infinity, whose product is not a number."""
    monkeypatch.setattr(head, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(head, "TILE_BYTES", {True: 0, False: 0})
    monkeypatch.setattr(head, "CACHED_BYTES", 17 * 4 * VOCABULARY)
    monkeypatch.setattr(head, "ENTROPY_BYTES", 5 * 4 * VOCABULARY)
    hidden, weight, bias, columns = (tensor[:ODD] if len(tensor) == ROWS else tensor for tensor in inputs)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    bias = bias.index_fill(0, torch.tensor([5]), float("-inf")).to(dtype)
    columns = torch.where(columns == 5, 6, columns)[:, :columns_each]
    results = []
    for entropies in (None, torch.full((ODD,), torch.nan)):
        leaves = [
            tensor.clone().requires_grad_(trained == "everything" or (trained == "hidden" and tensor is hidden))
            for tensor in (hidden, weight, bias)
        ]
        logps = column_logps(*leaves, columns, entropies=entropies)
        if trained != "nothing":
            logps.sum().backward()
        results.append([logps.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    logits = torch.nn.functional.linear(hidden, weight, bias).double()
    expected = torch.distributions.Categorical(logits=logits.clamp(min=-1e4)).entropy()
    assert entropies is not None
    torch.testing.assert_close(entropies.double(), expected, atol=2e-5 if dtype == torch.float32 else 0.05, rtol=1e-4)


def test_column_logps_in_bfloat16_has_its_softmax_in_fp32(inputs: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, _, columns = inputs
    found = column_logps(hidden.bfloat16(), weight.bfloat16(), None, columns)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(hidden.bfloat16(), weight.bfloat16(), None, columns), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kept_bytes", [0, 2**30], ids=["computed again", "kept"])
def test_column_logps_in_bfloat16_has_gradients_near_fp32s(
    kept_bytes: int, inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "KEPT_BYTES", kept_bytes)
    low = [tensor[:ODD].bfloat16() if number == 0 else tensor.bfloat16() for number, tensor in enumerate(inputs[:2])]
    columns, gradients = inputs[3][:ODD], []
    for way, leaves in ((column_logps, low), (plain, [tensor.float() for tensor in low])):
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        way(leaves[0], leaves[1], None, columns).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*gradients, strict=True):
        assert found is not None
        assert expected is not None
        assert found.shape == expected.shape
        assert (found.float() - expected).norm() < 1e-2 * expected.norm()


def test_column_logps_backward_a_second_time_computes_the_logits_again(inputs: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, _, columns = inputs
    leaf = hidden.clone().requires_grad_()
    logps = column_logps(leaf, weight.clone().requires_grad_(), None, columns)
    logps.sum().backward(retain_graph=True)
    assert leaf.grad is not None
    once = leaf.grad.clone()
    logps.sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * once)


def test_column_logps_without_gradients_holds_few_logits(
    inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "TILE_BYTES", {True: 0, False: 0})
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def logits(*given: torch.Tensor | None) -> torch.Tensor:
        alive.append(sum(one() is not None for one in made))
        found: torch.Tensor = real(*given)
        made.append(weakref.ref(found))
        return found

    real: Any = head._logits
    monkeypatch.setattr(head, "_logits", logits)
    hidden, weight, bias, columns = inputs
    weight.requires_grad_()
    with torch.no_grad():
        column_logps(hidden, weight, bias, columns)
    assert len(made) == 3
    assert max(alive) <= 1
