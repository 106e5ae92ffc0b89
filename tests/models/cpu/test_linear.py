"""oneDNN's products against torch's own, whether or not they are used."""

import platform

import pytest
import torch

from components.models.cpu import linear as cpu_linear
from components.models.cpu.linear import linear, pad_rows, product, product_over_rows

CPU = torch.device("cpu")
HAS_OP = hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture(params=[True, False] if HAS_OP else [False], ids=lambda param: "onednn" if param else "torch")
def onednn_is_faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both libraries compute on any processor; which one is faster is another question."""
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: request.param)
    return bool(request.param)


def test_torch_still_has_the_product_that_is_called() -> None:
    """It is not a public function: without it the speed would be lost, and nothing else would report it."""
    assert HAS_OP or platform.machine() != "x86_64"


@pytest.mark.parametrize("shape", [(7, 12), (2, 3, 12), (1, 12), (0, 12), (83, 12), (5, 67, 12)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_linear_and_its_gradients_are_torchs(
    onednn_is_faster: bool, shape: tuple[int, ...], biased: bool, dtype: torch.dtype, rtol: float
) -> None:
    draw = torch.Generator().manual_seed(4)
    results = []
    for way in (linear, torch.nn.functional.linear):
        draw.manual_seed(4)
        x, weight, bias = (
            torch.randn(*size, generator=draw).to(dtype).requires_grad_() for size in (shape, (5, 12), (5,))
        )
        out = way(x, weight, bias if biased else None)
        out.square().sum().backward()
        results.append((out.detach(), x.grad, weight.grad, bias.grad))
    for found, expected in zip(*results, strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=10 * rtol, rtol=rtol)


@pytest.mark.parametrize("rows", [1, 31, 83])
def test_products_without_a_gradient_are_torchs(onednn_is_faster: bool, rows: int) -> None:
    x, y, weight = torch.randn(rows, 12), torch.randn(rows, 7), torch.randn(5, 12)
    torch.testing.assert_close(product(x, weight), x @ weight.T)
    torch.testing.assert_close(product_over_rows(x, y), x.T @ y)


def test_lengths_that_differ_a_little_are_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps memory for each shape until the process ends."""
    seen = set()
    multiply = cpu_linear._multiply
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: HAS_OP)
    monkeypatch.setattr(cpu_linear, "_multiply", lambda a, *rest: seen.add(a.shape) or multiply(a, *rest))
    for rows in range(513, 1025):
        linear(torch.ones(rows, 4), torch.ones(2, 4), None)
    assert len(seen) == 16 * HAS_OP


def test_rows_that_end_one_by_one_are_a_few_shapes_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, multiply = set(), torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda a, *rest: seen.add(a.numel() // 12) or multiply(a, *rest))
    weight = torch.randn(5, 12).bfloat16()
    for rows in range(1, 129):
        x = torch.randn(rows, 1, 12).bfloat16()
        torch.testing.assert_close(linear(x, weight, None).float(), x.float() @ weight.T.float(), atol=0.1, rtol=0.02)
    assert seen == set(range(16, 129, 16))


def test_rows_are_filled_up_by_a_sixteenth_at_most_and_to_sixteen_numbers_an_octave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: True)

    def filled(count: int, dtype: torch.dtype) -> int:
        return count + pad_rows(count, CPU, dtype)

    for count in range(1, 5000):
        assert 0 <= filled(count, torch.float32) - count < max(1, count / 16)
        assert 0 <= filled(count, torch.bfloat16) - count < max(16, count / 16)
    for dtype in (torch.float32, torch.bfloat16):
        assert {filled(count, dtype) for count in range(1025, 2049)} == set(range(1088, 2049, 64))
    assert [filled(count, torch.float32) for count in range(1, 33)] == list(range(1, 33))
    assert {filled(count, torch.bfloat16) for count in range(1, 129)} == set(range(16, 129, 16))


def test_no_row_is_filled_up_where_products_are_not_onednns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "onednn_is_faster", lambda: False)
    assert pad_rows(1025, CPU, torch.float32) == pad_rows(1025, torch.device("meta"), torch.bfloat16) == 0


def test_linear_frozen_weight_gets_no_gradient(onednn_is_faster: bool) -> None:
    x, weight = torch.ones(3, 4, requires_grad=True), torch.ones(2, 4)
    linear(x, weight, None).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, torch.full((3, 4), 2.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_stay_torchs_own(onednn_is_faster: bool, dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 4).to(dtype), torch.randn(2, 4).to(dtype)
    assert torch.equal(linear(x, weight, None), torch.nn.functional.linear(x, weight))
    assert torch.equal(product(x, weight), x @ weight.T)


def test_autocast_stays_torchs_own(onednn_is_faster: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.ones(3, 4), torch.ones(2, 4), None).dtype == torch.bfloat16


def test_onednn_is_faster_on_amd_with_avx512_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    machines = (
        ("AuthenticAMD", True, HAS_OP),
        ("AuthenticAMD", False, False),
        ("GenuineIntel", True, False),
        ("", True, False),
    )
    for vendor, flag, expected in machines:
        monkeypatch.setattr(cpu_linear, "_vendor", lambda vendor=vendor: vendor)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flag=flag: {"avx512_f": flag})
        assert cpu_linear.onednn_is_faster.__wrapped__() is expected


@pytest.mark.parametrize("rows", [7, 83])
def test_linear_output_may_be_changed_in_place(onednn_is_faster: bool, rows: int) -> None:
    """Gemma 3n scales a projection in place; autograd refuses that for a view that a function of ours returned."""
    x, weight = torch.ones(rows, 12, requires_grad=True), torch.ones(5, 12, requires_grad=True)
    out = linear(x, weight, None)
    out *= 3.0
    out.sum().backward()
    assert torch.equal(x.grad, torch.full((rows, 12), 15.0))
    assert torch.equal(weight.grad, torch.full((5, 12), 3.0 * rows))
