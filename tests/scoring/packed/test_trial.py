"""The trial in a lower precision: it accepts a model that only rounds, and refuses one that is packed wrongly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

from components.config import LoraConfig, SoftPromptConfig
from components.models.adapters import with_fresh_adapter
from components.models.rounding import in_fp32
from components.scoring import padded
from components.scoring.packed import logps, rewards, trial
from components.scoring.packed.layout import Packed, Segment
from components.scoring.response_logps import scoring_path
from tests.scoring.packed import architectures
from tests.scoring.packed.architectures import PACKED, SMALL

WIDE = SMALL | {"vocab_size": 400, "initializer_range": 0.1}
WRITES = ("self_attn.o_proj", "mlp.down_proj")
"""Modules of a layer that write into the hidden states."""


def build(config: Any, dtype: torch.dtype, auto: Any = AutoModelForCausalLM) -> Any:
    return architectures.build(auto, config).to(dtype).eval()


@torch.no_grad()
def logps_of(model: Any, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    return padded.padded_token_logps(model, prompts, responses)


@torch.no_grad()
def packed_logps_of(model: Any, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    layout = Packed(prompts, responses, torch.device("cpu"), model.dtype)
    columns = torch.tensor([token for response in responses for token in response]).unsqueeze(1)
    return logps.packed_logps(model, layout, columns).squeeze(1)


def with_loud_special_tokens() -> Any:
    """A llama of which tokens 1 to 7 alone move a direction of the hidden states that the head reads loudly."""
    model = build(LlamaConfig(**WIDE, bos_token_id=1, eos_token_id=2), torch.float32)
    embeddings, head = (table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings()))
    with torch.no_grad():
        for weight in (
            embeddings.T,
            *(layer.get_submodule(name).weight for layer in model.model.layers for name in WRITES),
        ):
            weight[0] = 0
        embeddings[1:8, 0] = 1
        head[:, 0] *= 300
    return model.to(torch.bfloat16)


def test_loud_special_tokens_do_not_keep_a_model_from_being_packed() -> None:
    """A trial on tokens 1 to 7 with a bound of 0.25 nats refused such a model, as it did SmolLM2."""
    model = with_loud_special_tokens()
    special = [[1, 2, 3, 4, 5]] * 2 + [[3, 1]] * 3, [[6, 7], [5, 4, 3, 2], [4], [2, 2, 6], [7, 1]]
    ordinary = trial._rows(model, longest=100)
    padded = [logps_of(model, *rows) for rows in (special, ordinary)]
    assert scoring_path(model, 300) == (True, None)
    apart = [packed_logps_of(model, *rows) - of_rows for rows, of_rows in zip((special, ordinary), padded, strict=True)]
    assert apart[0].abs().max() > 0.25
    assert apart[1].abs().max() < 0.05


@pytest.mark.parametrize("name", PACKED)
def test_models_that_are_packed_in_fp32_are_packed_in_bfloat16(name: str) -> None:
    assert logps.longest_packed(build(PACKED[name], torch.bfloat16), padded.padded_token_logps) >= 64
    config = type(PACKED[name]).from_dict(PACKED[name].to_dict() | {"num_labels": 1})
    assert rewards.longest_rewarded(build(config, torch.bfloat16, AutoModelForSequenceClassification)) >= 64


def in_one_text(layout: Packed) -> None:
    layout.position_ids = torch.arange(layout.input_ids.shape[1]).unsqueeze(0)


def one_late(layout: Packed) -> None:
    for segment in layout.segments:
        layout.position_ids[0, segment.places[1]] += 1


def seeing_those_before(layout: Packed) -> None:
    layout.in_order = [
        each if each.adjoins else each._replace(prompt_length=each.start - each.prompt_start)
        for each in layout.in_order
    ]


def without_the_prompt_s_end(layout: Packed) -> None:
    layout.in_order = [
        each if each.adjoins else Segment(each.prompt_start, max(1, each.prompt_length - 1), each.start, each.length)
        for each in layout.in_order
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spoil", [in_one_text, one_late, seeing_those_before, without_the_prompt_s_end])
def test_model_whose_row_is_packed_wrongly_is_not_trusted(
    spoil: Callable[[Packed], None], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoiled(Packed):
        def __init__(self, *args: Any, **words: Any) -> None:
            super().__init__(*args, **words)
            spoil(self)

    for module in (logps, rewards):
        monkeypatch.setattr(module, "Packed", Spoiled)
    path = scoring_path(build(LlamaConfig(**SMALL), dtype), 10)
    assert not path.packed
    assert path.reason is not None
    assert "a token's log-probability is off by" in path.reason
    assert (
        rewards.longest_rewarded(build(LlamaConfig(**SMALL, num_labels=1), dtype, AutoModelForSequenceClassification))
        == 0
    )


@pytest.mark.parametrize("name", PACKED)
def test_lower_precision_in_fp32_is_what_a_copy_in_fp32_computes(name: str) -> None:
    model = build(PACKED[name], torch.bfloat16)
    before = {key: (weight.data_ptr(), weight.dtype) for key, weight in model.named_parameters()}
    rows = architectures.PROMPTS, architectures.RESPONSES
    with in_fp32(model):
        found = logps_of(model, *rows)
    assert {key: (weight.data_ptr(), weight.dtype) for key, weight in model.named_parameters()} == before
    low = logps_of(model, *rows)
    exact = logps_of(model.float(), *rows)
    # gemma3 multiplies its embeddings by a number that it keeps in the precision of the table.
    assert (found - exact).abs().max() < (0.02 if name == "gemma3" else 1e-4)
    assert (low - exact).abs().max() > 3 * (found - exact).abs().max()


def test_weights_are_their_own_again_after_a_forward_that_fails() -> None:
    model = build(LlamaConfig(**SMALL), torch.bfloat16)

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    model.model.layers[1].mlp.down_proj.forward = fail
    with pytest.raises(RuntimeError, match="no memory"), in_fp32(model):
        logps_of(model, [[5, 6]], [[7]])
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapter_in_bfloat16_is_packed(kind: str) -> None:
    lora = LoraConfig.model_validate({"rank": 4, "alpha": 8, "kind": kind})
    model = with_fresh_adapter(build(LlamaConfig(**SMALL), torch.bfloat16), lora, SoftPromptConfig())
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    assert scoring_path(model, 300) == (True, None)


def test_rows_beyond_a_window_and_collisions_are_told_as_padded() -> None:
    model = build(PACKED["gemma3"], torch.float32)
    assert scoring_path(model, 64) == (True, None)
    assert scoring_path(model, 65) == (
        False,
        "Gemma3ForCausalLM has a sliding window of 64 tokens, and rows are up to 65 tokens long",
    )
    assert scoring_path(model, 10, collisions=True) == (
        False,
        "collision probabilities (weighting: wpo) need all logits",
    )
