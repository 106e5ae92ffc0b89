"""A model is packed if that is exact, and the log says why if it is not; the scores are the same either way."""

import logging
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from components.scoring import padded
from components.scoring import response_logps as scoring
from components.scoring.batch import Batch
from components.scoring.packed import logps
from components.scoring.response_logps import token_scores
from tests.scoring.packed import architectures
from tests.scoring.packed.architectures import PACKED, PADDED, PROMPTS, RESPONSES, SMALL


def build(config: Any) -> Any:
    return architectures.build(AutoModelForCausalLM, config).train()


def batch() -> Batch:
    return Batch(PROMPTS, RESPONSES, 0, torch.device("cpu"))


@pytest.mark.parametrize("name", PACKED)
def test_packed_model_scores_and_learns_as_padded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signs = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0])
    results = []
    for packed in (True, False):
        model = build(PACKED[name])
        if packed:
            assert logps.longest_packed(model, padded.padded_token_logps) >= 64
        else:
            monkeypatch.setattr(scoring, "longest_packed", lambda *_: 0)
        scores = token_scores(model, batch(), end_ids=[3])
        assert scores.end_logps is not None
        ((scores.logps.sum(dim=1) @ signs) + scores.end_logps.exp().sum()).backward()
        results.append((scores, {name: weight.grad for name, weight in model.named_parameters()}))
    (found, gradients), (expected, wanted) = results
    torch.testing.assert_close(found.logps, expected.logps, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.end_logps, expected.end_logps, atol=2e-5, rtol=1e-5)
    for each, gradient in wanted.items():
        assert (gradients[each] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, each


@pytest.mark.parametrize("name", PADDED)
def test_model_that_cannot_be_packed_is_scored_padded_and_the_log_says_why_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config, reason = PADDED[name]
    model = build(config)
    before = model.config._attn_implementation
    with caplog.at_level(logging.WARNING):
        assert [logps.longest_packed(model, padded.padded_token_logps) for _ in range(2)] == [0, 0]
    assert len([record for record in caplog.records if reason in record.message and "padded" in record.message]) == 1
    assert model.config._attn_implementation == before
    assert "forward" not in vars(model.get_output_embeddings())
    assert torch.isfinite(token_scores(model.eval(), batch()).logps).all()


def test_row_longer_than_a_sliding_window_is_scored_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Gemma3TextConfig(
        **SMALL, head_dim=8, sliding_window=10, layer_types=["sliding_attention", "full_attention"]
    )
    model = build(config).eval()
    assert logps.longest_packed(model, padded.padded_token_logps) == 10
    long = Batch([[5, 6, 7, 8]], [[1, 2, 3, 4, 5, 6, 7]], 0, torch.device("cpu"))
    monkeypatch.setattr(scoring, "packed_logps", lambda *_: pytest.fail("a window hides what a packed row would show"))
    assert torch.isfinite(token_scores(model, long).logps).all()


def test_packed_attention_is_not_seen_by_the_model_s_own_forward() -> None:
    model, other = build(PACKED["llama"]).eval(), build(PACKED["llama"]).eval()
    logps.longest_packed(model, padded.padded_token_logps)
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with torch.no_grad():
        found, expected = (each(input_ids=ids, attention_mask=mask).logits for each in (model, other))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)
    assert "_attn_implementation" not in model.config.to_json_string()


def test_model_whose_packed_row_is_off_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that separates a row's responses by more than attention and positions."""
    model = build(PACKED["llama"])
    kept = logps.packed_logps
    monkeypatch.setattr(logps, "packed_logps", lambda *words: kept(*words) + 0.01)
    with caplog.at_level(logging.WARNING):
        assert logps.longest_packed(model, padded.padded_token_logps) == 0
    assert "off by 0.01 nats in a packed row" in caplog.text


def test_model_that_this_machine_cannot_pack_is_scored_padded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: Any) -> Any:
        raise RuntimeError("no kernel for this device")

    model = build(PACKED["llama"])
    monkeypatch.setattr(logps, "packed_logps", missing)
    with caplog.at_level(logging.WARNING):
        assert logps.longest_packed(model, padded.padded_token_logps) == 0
    assert "cannot be packed: no kernel for this device" in caplog.text
    assert torch.isfinite(token_scores(model.eval(), batch()).logps).all()
