"""Which models decode with shared prompts; a model whose logits would differ does not.

What they say is in test_sampler.py.
"""

import logging
from typing import Any

import pytest
import torch

from components.generation import paths, shared_prompt
from components.generation.cache import CopiedCache
from components.generation.paths import sampling_path
from components.generation.prefill import prefill
from components.generation.sampler import Sampled, sample
from components.generation.sampling_params import SamplingParams
from components.generation.shared_prompt import Shared
from components.models.adapters import unwrapped


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_known", type(paths._known)())


def kind_of(model: Any) -> type[Shared | CopiedCache] | None:
    return sampling_path(model).cache


def sampled(model: Any, prompts: list[list[int]]) -> list[Sampled]:
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12, stop_ids=frozenset({1, 4, 9}))
    seeds = [[7 * index, 7 * index + 1] for index in range(len(prompts))]
    return sample(model, prompts, seeds=seeds, law=law, pad_id=0, batch_size=8, on_batch=lambda _: None)


@pytest.mark.parametrize(
    "any_model", ["llama", "qwen3", "lora", "dora", "prompt", "prefix", "prefix on qwen3"], indirect=True
)
def test_plain_attention_shares_prompts(any_model: Any) -> None:
    assert kind_of(any_model) is Shared
    assert unwrapped(any_model).config._attn_implementation == "sdpa", (
        "only while it decodes is the attention another one"
    )


def test_plain_attention_shares_prompts_in_bfloat16(llama: Any) -> None:
    before = llama.dtype
    try:
        assert kind_of(llama.to(torch.bfloat16)) is Shared
    finally:
        llama.to(before)


@pytest.mark.parametrize("any_model", ["qwen2", "gemma2", "gemma3", "prompt on gemma3"], indirect=True)
def test_windows_and_caps_are_decoded_from_copies_and_the_log_says_why(
    any_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert {kind_of(any_model) for _ in range(2)} == {CopiedCache}
    assert len([line for line in caplog.messages if "copy of its prompt" in line]) == 1


def test_eager_attention_stays_as_it_was_asked_for(llama: Any) -> None:
    llama.set_attn_implementation("eager")
    try:
        assert kind_of(llama) is CopiedCache
    finally:
        llama.set_attn_implementation("sdpa")


def test_logits_that_would_be_others_are_found_out(
    llama: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sampled(llama, prompts)
    attend = Shared.attend
    monkeypatch.setattr(paths, "_known", type(paths._known)())
    monkeypatch.setattr(Shared, "attend", lambda self, layer, query, scale: attend(self, layer, query, 1.01 * scale))
    assert kind_of(llama) is CopiedCache
    assert sampled(llama, prompts) == expected


def test_attention_that_never_asks_is_found_out(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with attention code of its own would read the keys of the last token only."""
    monkeypatch.setattr(shared_prompt, "NAME", "sdpa")
    assert kind_of(llama) is CopiedCache


def test_a_prompt_is_held_once_and_no_longer_than_its_responses(llama: Any) -> None:
    with torch.inference_mode():
        state = Shared(prefill(llama, [[1, 2, 3], [4], [5, 6]], 0), samples=4, room=3)
        state.step(torch.arange(12), torch.tensor([3, 1, 2]).repeat_interleave(4)[:, None])
        state.compact(shared_prompt.plan_compaction([False] * 4 + [True] * 8, torch.device("cpu")))
    assert sum(len(keys) for keys, _ in state.layers[0].prompts) == 2
    assert state.layers[0].own_keys.shape[0] == 8


def test_prompts_of_about_one_length_are_a_run_no_wider_than_the_longest(llama: Any) -> None:
    prompts = [[1] * length for length in (9, 8, 5, 4, 2, 1)]
    with torch.inference_mode():
        state = Shared(prefill(llama, prompts, 0), samples=1, room=2)
        assert [tuple(keys.shape[::2]) for keys, _ in state.layers[0].prompts] == [(3, 9), (2, 4), (1, 1)]
        assert [run.hidden is None for run in state.runs] == [False, False, True]
        running = [False, True, True, False, True, False]
        state.step(torch.arange(6), torch.tensor([[len(prompt)] for prompt in prompts]))
        state.compact(shared_prompt.plan_compaction(running, torch.device("cpu")))
    assert [len(keys) for keys, _ in state.layers[0].prompts] == [2, 1, 0]


def test_a_prefix_before_the_padding_makes_all_prompts_one_run() -> None:
    mask = torch.tensor([[True, True, True, True], [True, False, False, True]])
    assert [run.width for run in shared_prompt._runs(mask)] == [4]
    assert [run.width for run in shared_prompt._runs(mask[:, 1:])] == [3, 1]
