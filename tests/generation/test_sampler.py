import os
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers import GenerationConfig

from components.config import LoraConfig, SoftPromptConfig
from components.generation import prefill as prefilling
from components.generation import sampler
from components.generation.sampler import Sampled, sample
from components.generation.sampling_params import SamplingParams, sample_tokens
from components.models.adapters import with_fresh_adapter

STOP = 1


def law(**changes: Any) -> SamplingParams:
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "max_new_tokens": 12,
        "stop_ids": frozenset({STOP}),
    }
    return SamplingParams(**{**settings, **changes})


def sampled(
    model: Any,
    prompts: Sequence[list[int]],
    seeds: Sequence[Sequence[int]],
    rule: SamplingParams,
    *,
    batch_size: int = 64,
) -> list[Sampled]:
    return sample(model, prompts, seeds=seeds, law=rule, pad_id=0, batch_size=batch_size, on_batch=lambda batch: None)


def seeds_for(prompts: Sequence[list[int]], samples: int) -> list[list[int]]:
    return [[1000 * index + number for number in range(samples)] for index in range(len(prompts))]


def without_cache(model: Any, prompt: list[int], seed: int, rule: SamplingParams) -> tuple[list[int], str]:
    """Return the response by the plainest loop.

    One row, no padding, no cache, the whole sequence again for every token.
    """
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(rule.max_new_tokens)
    tokens: list[int] = []
    for uniform in uniforms:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1]
        weights = torch.softmax(logits.double() / rule.temperature, dim=-1).numpy()
        tokens.append(int(np.searchsorted(np.cumsum(weights), uniform, side="right")))
        if tokens[-1] in rule.stop_ids:
            return tokens, "stop"
    return tokens, "length"


def test_sample_equals_a_loop_without_cache_padding_or_batch(any_model: Any, prompts: list[list[int]]) -> None:
    several = frozenset({STOP, 4, 9, 17, 23})
    rule = law(stop_ids=several)
    seeds = seeds_for(prompts, 3)
    found = sampled(any_model, prompts, seeds, rule)
    assert [answer[:2] for answer in found] == [(index, number) for index in range(len(prompts)) for number in range(3)]
    for answer in found:
        expected = without_cache(
            any_model, prompts[answer.prompt_index], seeds[answer.prompt_index][answer.sample_index], rule
        )
        assert (answer.token_ids, answer.finish_reason) == expected
    reasons = Counter(answer.finish_reason for answer in found)
    assert len(reasons) == 2, "rows that end early and rows that do not must share the batch"


@pytest.mark.parametrize("greedy", [{"top_k": 1}, {"temperature": 1e-6}, {"top_p": 1e-9}])
def test_sample_in_the_greedy_limit_takes_the_likeliest_token(
    llama: Any, prompts: list[list[int]], greedy: dict[str, Any]
) -> None:
    found = sampled(llama, prompts, seeds_for(prompts, 2), law(stop_ids=frozenset(), **greedy))
    for answer in found:
        tokens: list[int] = []
        for _ in range(12):
            with torch.no_grad():
                ids = torch.tensor([prompts[answer.prompt_index] + tokens])
                tokens.append(int(llama(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
        assert answer.token_ids == tokens


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_sample_does_not_depend_on_the_batch(any_model: Any, prompts: list[list[int]], batch_size: int) -> None:
    rule = law(stop_ids=frozenset({STOP, 4, 9}))
    seeds = seeds_for(prompts, 2)
    assert sampled(any_model, prompts, seeds, rule, batch_size=batch_size) == sampled(any_model, prompts, seeds, rule)


def test_sample_does_not_depend_on_the_pieces_of_its_prefill(
    any_model: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, seeds = law(stop_ids=frozenset({STOP, 4, 9})), seeds_for(prompts, 2)
    whole = sampled(any_model, prompts, seeds, rule)
    for most in (1, 16):
        monkeypatch.setattr(prefilling, "MOST_TOKENS", {"cpu": most})
        assert sampled(any_model, prompts, seeds, rule) == whole


def test_sample_goes_on_with_smaller_batches_when_memory_is_short(
    llama: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode, tried = sampler._decode, []

    def short_of_memory(model: Any, members: list[list[int]], *rest: Any) -> Any:
        tried.append(len(members))
        if len(members) > 2:
            raise torch.OutOfMemoryError
        return decode(model, members, *rest)

    whole = sampled(llama, prompts, seeds_for(prompts, 2), law())
    monkeypatch.setattr(sampler, "_decode", short_of_memory)
    assert sampled(llama, prompts, seeds_for(prompts, 2), law(), batch_size=0) == whole
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]
    assert "continuing with 3" in caplog.text


def test_the_batch_that_fits_is_smaller_for_longer_responses_and_never_empty(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 2000)  # a machine of 4 MB
    rows = [sampler._rows_that_fit(llama, longest) for longest in (16, 128, 100_000)]
    assert 256 > rows[0] > rows[1] > rows[2] == 0
    assert len(sampled(llama, [[5, 6]], [[1, 2, 3]], law(), batch_size=0)) == 3


def test_sample_of_a_prompt_does_not_depend_on_the_other_prompts_or_samples(
    llama: Any, prompts: list[list[int]]
) -> None:
    seeds = seeds_for(prompts, 3)
    together = sampled(llama, prompts, seeds, law())
    alone = sampled(llama, prompts[2:3], [seeds[2][1:2]], law())
    assert alone[0].token_ids == together[2 * 3 + 1].token_ids


def test_sample_with_rows_that_end_at_every_step_leaves_the_others_as_they_are(
    llama: Any, prompts: list[list[int]]
) -> None:
    """The same rows with and without stop tokens.

    Up to its stop, each row says what it says when no row ever leaves.
    """
    seeds = seeds_for(prompts, 16)
    stops = frozenset({STOP, 4, 9, 17, 23, 30})
    ragged = sampled(llama, prompts, seeds, law(stop_ids=stops, max_new_tokens=20))
    endless = sampled(llama, prompts, seeds, law(stop_ids=frozenset(), max_new_tokens=20))
    for short, full in zip(ragged, endless, strict=True):
        assert short.token_ids == full.token_ids[: len(short.token_ids)]
        assert not stops & set(short.token_ids[:-1])
        assert (short.finish_reason == "stop") == (short.token_ids[-1] in stops)
        assert full.finish_reason == "length"
    assert len({len(answer.token_ids) for answer in ragged}) > 10, "rows must leave at many different steps"


def test_sample_with_a_shorter_limit_gives_the_start_of_the_longer_response(
    llama: Any, prompts: list[list[int]]
) -> None:
    seeds = seeds_for(prompts, 2)
    short, full = (sampled(llama, prompts, seeds, law(max_new_tokens=limit, stop_ids=frozenset())) for limit in (5, 12))
    assert [answer.token_ids for answer in short] == [answer.token_ids[:5] for answer in full]


def test_sample_that_stops_at_the_very_limit_counts_as_stopped(llama: Any) -> None:
    everything = frozenset(range(40))
    assert [
        answer.finish_reason
        for answer in sampled(llama, [[5, 6]], [[1, 2]], law(max_new_tokens=1, stop_ids=everything))
    ] == ["stop"] * 2


def test_sample_follows_the_models_distribution_over_two_tokens(llama: Any) -> None:
    """Compare frequencies of the pair (first token, whether the second is below 8) with the exact probabilities."""
    prompt, count = [7, 12, 30], 6000
    found = sampled(llama, [prompt], [list(range(count))], law(max_new_tokens=2, stop_ids=frozenset()))
    with torch.no_grad():
        first = llama(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1).double()
        after = (
            llama(input_ids=torch.tensor([[*prompt, token] for token in range(40)])).logits[:, -1].softmax(-1).double()
        )
    low = after[:, :8].sum(dim=1)
    expected = torch.cat([first * low, first * (1 - low)]).numpy() * count
    observed = np.zeros(80)
    for answer in found:
        observed[answer.token_ids[0] + (0 if answer.token_ids[1] < 8 else 40)] += 1
    likely = expected >= 5
    assert likely.sum() > 20
    cells = [*zip(observed[likely], expected[likely], strict=True), (observed[~likely].sum(), expected[~likely].sum())]
    statistic = sum((seen - meant) ** 2 / meant for seen, meant in cells)
    assert statistic < chi2.ppf(0.999, len(cells) - 1)


def test_sample_ignores_the_models_generation_config(llama: Any, prompts: list[list[int]]) -> None:
    plain = sampled(llama, prompts, seeds_for(prompts, 2), law())
    before = llama.generation_config
    try:
        llama.generation_config = GenerationConfig(
            do_sample=False, top_k=1, temperature=0.1, eos_token_id=5, max_new_tokens=2
        )
        assert sampled(llama, prompts, seeds_for(prompts, 2), law()) == plain
    finally:
        llama.generation_config = before


def test_sample_reports_each_batch_once(llama: Any, prompts: list[list[int]]) -> None:
    batches: list[Sequence[Sampled]] = []
    found = sample(
        llama, prompts, seeds=seeds_for(prompts, 2), law=law(), pad_id=0, batch_size=4, on_batch=batches.append
    )
    assert [len(batch) for batch in batches] == [8, 4]
    assert sorted(answer for batch in batches for answer in batch) == found


def test_sample_beyond_the_context_is_refused(llama: Any) -> None:
    with pytest.raises(ValueError, match="need 130 positions, but the model has 128: lower max_response_tokens"):
        sampled(llama, [[5] * 118], [[1]], law())


def test_sample_with_virtual_tokens_counts_them_in_the_context(llama: Any) -> None:
    model = with_fresh_adapter(llama, LoraConfig(), SoftPromptConfig(kind="prompt", num_tokens=9))
    with pytest.raises(
        ValueError, match="9 virtual tokens and max_response_tokens need 130 positions, but the model has 128"
    ):
        sampled(model, [[5] * 109], [[1]], law())


def test_sample_with_broken_weights_fails(llama: Any) -> None:
    weight = llama.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[3] = torch.nan
        with pytest.raises(RuntimeError, match="not finite"):
            sampled(llama, [[5, 6]], [[1]], law())
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def admitted(logits: list[float], rule: SamplingParams) -> dict[int, float]:
    """Return tokens and probabilities by the definitions of temperature, top-k and nucleus, for logits without ties."""
    weights = {token: np.exp((value - max(logits)) / rule.temperature) for token, value in enumerate(logits)}
    ranked = sorted(weights, key=lambda token: -weights[token])
    ranked = ranked[: rule.top_k or None]
    total = sum(weights[token] for token in ranked)
    nucleus: list[int] = []
    for token in ranked:
        if sum(weights[earlier] for earlier in nucleus) / total < rule.top_p:
            nucleus.append(token)
    share = sum(weights[token] for token in nucleus)
    return {token: weights[token] / share for token in sorted(nucleus)}


@pytest.mark.parametrize(
    "limits",
    [{"top_k": 3}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.8}, {"top_k": 99}, {"top_p": 0.3, "temperature": 2.0}, {}],
)
def test_pick_tokens_inverts_the_restricted_distribution(limits: dict[str, Any]) -> None:
    chance = random.Random(2)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1] + 1e-5
    rule = law(**limits)
    for _ in range(10):
        logits = [chance.gauss(0, 2) for _ in range(9)]
        picked = sample_tokens(torch.tensor([logits]).expand(len(grid), -1), grid, rule)
        expected = admitted(logits, rule)
        edges = np.cumsum(list(expected.values()))
        assert set(picked.tolist()) <= set(expected)
        wrong = [
            (float(uniform), token)
            for uniform, token in zip(grid, picked.tolist(), strict=True)
            if token != list(expected)[min(int(np.searchsorted(edges, float(uniform), side="right")), len(edges) - 1)]
        ]
        assert all(np.abs(edges - uniform).min() < 1e-6 for uniform, _ in wrong)


def test_pick_tokens_admits_tokens_tied_with_the_last_one() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]]).expand(1000, -1)
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for rule in (law(top_k=2), law(top_p=0.62)):
        assert set(sample_tokens(logits, uniforms, rule).tolist()) == {0, 1, 2}


def test_pick_tokens_at_the_ends_of_the_unit_interval_takes_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 3.0, -torch.inf]]).expand(2, -1)
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logits, ends, law()).tolist() == [1, 3]


def test_pick_tokens_reaches_a_token_too_rare_for_a_float32_sum() -> None:
    logits = torch.tensor([[0.0, -18.0]])
    rare = 1 / (1 + float(np.exp(18)))
    for share, token in ((0.5, 1), (1.5, 0)):
        assert sample_tokens(logits, torch.tensor([1 - share * rare], dtype=torch.float64), law()).tolist() == [token]


@pytest.mark.parametrize("bad", [[0.0, torch.nan], [0.0, torch.inf], [-torch.inf, -torch.inf]])
def test_pick_tokens_of_unusable_logits_says_so(bad: list[float]) -> None:
    assert sample_tokens(torch.tensor([bad]), torch.tensor([0.3], dtype=torch.float64), law()).tolist() == [-1]
