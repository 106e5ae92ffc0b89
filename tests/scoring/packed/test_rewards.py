"""A reward model is packed if that is exact; its rewards stay the same, and every prompt is read once."""

import logging
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig, LlamaForSequenceClassification

from components.scoring.packed import rewards
from components.scoring.packed.layout import Packed
from components.scoring.packed.rewards import longest_rewarded, packed_rewards
from tests.scoring.packed import architectures
from tests.scoring.packed.architectures import PACKED, PADDED, PROMPTS, RESPONSES, SMALL


def build(config: Any) -> Any:
    return architectures.build(AutoModelForSequenceClassification, config).eval()


def layout() -> Packed:
    return Packed(PROMPTS, RESPONSES, torch.device("cpu"), torch.float32, ends=True)


def one_by_one(model: Any) -> torch.Tensor:
    texts = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    return torch.cat([model(input_ids=torch.tensor([text])).logits for text in texts]).squeeze(1)


@pytest.mark.parametrize("pad_id", [None, 0])
@pytest.mark.parametrize("name", PACKED)
def test_packed_rewards_are_those_of_texts_alone(name: str, pad_id: int | None) -> None:
    config = type(PACKED[name]).from_dict(PACKED[name].to_dict() | {"num_labels": 1, "pad_token_id": pad_id})
    model, other = build(config), build(config)
    assert longest_rewarded(model) >= 64
    assert model.config.pad_token_id == pad_id
    with torch.no_grad():
        found, expected = packed_rewards(model, layout()), one_by_one(other)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert len({round(float(reward), 3) for reward in expected}) == len(expected)


def test_packed_rewards_have_the_gradients_of_texts_alone() -> None:
    config = LlamaConfig(**SMALL, num_labels=1)
    signs = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0])
    model, other = build(config), build(config)
    assert longest_rewarded(model)
    (packed_rewards(model, layout()) @ signs).backward()
    (one_by_one(other) @ signs).backward()
    for (name, weight), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (weight.grad - twin.grad).norm() <= 1e-4 * twin.grad.norm() + 1e-7, name


class Scaled(LlamaForSequenceClassification):
    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **words: Any) -> Any:
        made = super().forward(input_ids, position_ids=position_ids, **words)
        made.logits = 2 * made.logits
        return made


def test_packed_rewards_are_what_the_model_makes_of_its_head() -> None:
    model = Scaled(LlamaConfig(**SMALL, num_labels=1)).eval()
    with torch.no_grad():
        expected = one_by_one(model)
        assert longest_rewarded(model)
        torch.testing.assert_close(packed_rewards(model, layout()), expected, atol=2e-5, rtol=1e-5)


def test_reward_model_that_cannot_be_packed_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    config = type(PADDED["gemma2"][0]).from_dict(PADDED["gemma2"][0].to_dict() | {"num_labels": 1})
    spoiled = {
        "Gemma2ForSequenceClassification uses eager attention": build(config),
        "BertForSequenceClassification cannot be packed: it has no head named score": build(
            BertConfig(vocab_size=40, hidden_size=32, num_attention_heads=4, num_labels=1)
        ),
    }
    for reason, model in spoiled.items():
        caplog.clear()
        before = model.config._attn_implementation
        with caplog.at_level(logging.WARNING):
            assert [longest_rewarded(model) for _ in range(2)] == [0, 0]
        assert (
            len([record for record in caplog.records if reason in record.message and "padded" in record.message]) == 1
        )
        assert model.config._attn_implementation == before


def test_reward_model_whose_packed_row_is_off_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = rewards._read
    monkeypatch.setattr(rewards, "_read", lambda *words: kept(*words) * 1.01)
    with caplog.at_level(logging.WARNING):
        assert longest_rewarded(build(LlamaConfig(**SMALL, num_labels=1))) == 0
    assert "its hidden states are off by 1.00% in a packed row" in caplog.text
