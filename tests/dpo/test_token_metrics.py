"""Metrics of response tokens by step: against an independent float64 loop, and the same however a step is cut."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.artifacts import read_json, read_table
from components.config import ConstraintsConfig, TrainingConfig
from components.dpo.batches import Layout, Pair, Plan, read_pairs
from components.dpo.objective import Objective
from components.dpo.objective_state import ObjectiveState
from components.dpo.reference import PairLogps, score_pairs
from components.dpo.responses import response_balance
from components.dpo.stage import run
from components.dpo.train import measured
from components.models.loading import load_policy
from components.records import TrainRequest
from components.runtime.launch import Placement, run_stage
from components.scoring.batch import Batch
from components.scoring.response_logps import token_scores

Make = Callable[..., TrainRequest]
NAMES = ("entropy", "lengths/chosen", "lengths/rejected", "logps/chosen_per_token", "logps/rejected_per_token")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(make_request: Make) -> list[Pair]:
    return read_pairs(read_table(make_request().train), source="train.parquet")[:6]


def objective_over(pairs: list[Pair], model: Any, *, shift: float = 0.0, **training: Any) -> Objective:
    settings = TrainingConfig(**training)
    logps = score_pairs(model, pairs, 0, max_tokens=8192, max_rows=0, rank=0, world_size=1)
    moved = PairLogps(logps.chosen - shift * logps.chosen.ne(0), logps.rejected - shift * logps.rejected.ne(0))
    return Objective(
        pairs,
        moved,
        settings,
        pad_id=0,
        end_ids=[],
        pair_weights=[1.0] * len(pairs),
        balance=response_balance(pairs) if any(pair.is_unpaired for pair in pairs) else (1.0, 1.0),
        constraints={},
        state=ObjectiveState(ConstraintsConfig(), [], shifts_rewards=False),
    )


def token_loop(directory: str, pairs: list[Pair]) -> dict[str, float]:
    """The metrics in float64, answer by answer and token by token."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    entropies: list[float] = []
    logps: dict[str, list[float]] = {"chosen": [], "rejected": []}
    lengths: dict[str, list[int]] = {"chosen": [], "rejected": []}
    for pair in pairs:
        for side, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            if not answer:
                continue
            lengths[side].append(len(answer))
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([pair.prompt + answer])).logits[0]
            for place, token in enumerate(answer, len(pair.prompt) - 1):
                law = logits[place].log_softmax(dim=0)
                entropies.append(float(-(law.exp() * law).sum()))
                logps[side].append(float(law[token]))
    metrics = {"entropy": sum(entropies) / len(entropies)}
    for side in ("chosen", "rejected"):
        metrics[f"lengths/{side}"] = sum(lengths[side]) / len(lengths[side])
        metrics[f"logps/{side}_per_token"] = sum(logps[side]) / len(logps[side])
    return metrics


@pytest.mark.parametrize("singles", [False, True])
@pytest.mark.parametrize("weighting", ["none", "wpo"], ids=["packed", "padded"])
def test_metrics_of_tokens_are_those_of_a_float64_loop(
    singles: bool, weighting: str, pairs: list[Pair], make_request: Make
) -> None:
    """Means over tokens and not over pairs: long answers count more, and a side without an answer not at all."""
    policy = make_request().policy
    model: Any = load_policy(policy, dtype=torch.float32, device=CPU)
    if singles:
        pairs = [replace(pair, **{"chosen" if row % 3 else "rejected": []}) for row, pair in enumerate(pairs)]
    loss = ({"loss": "kto"} if singles else {}) | {"weighting": weighting}
    objective = objective_over(pairs, model, **loss)
    if objective.loss.needs_kl:
        objective.reference = objective.reference._replace(mismatched=torch.zeros(len(pairs)))
    expected = token_loop(policy.base, pairs)
    for micro_batch_pairs in (1, 4, 6):
        layout = Layout([pair.num_tokens for pair in pairs], 8192, micro_batch_pairs)
        means, values = measured(model, objective, list(range(len(pairs))), layout, name="pairs")
        metrics = objective.metrics(means, values)
        found = {name: metrics[name] for name in NAMES}
        assert found == pytest.approx({name: expected[name] for name in NAMES}, rel=1e-4)
        assert metrics["log_ratios/per_token"] == pytest.approx(0.0, abs=1e-5), "the reference is the policy"


def test_log_ratio_is_that_of_tokens_by_hand(pairs: list[Pair], make_request: Make) -> None:
    model: Any = load_policy(make_request().policy, dtype=torch.float32, device=CPU)
    objective = objective_over(pairs, model, shift=3.0)
    layout = Layout([pair.num_tokens for pair in pairs], 8192)
    means, values = measured(model, objective, list(range(len(pairs))), layout, name="pairs")
    tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    # Each answer is 3 nats more likely than under the reference.
    found = objective.metrics(means, values)["log_ratios/per_token"]
    assert found == pytest.approx(3.0 * 2 * len(pairs) / tokens, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_entropies_of_packed_and_padded_rows_agree(temperature: float, make_request: Make) -> None:
    model: Any = load_policy(make_request().policy, dtype=torch.float32, device=CPU)
    batch = Batch([[5, 6, 7], [5, 6, 7], [8]], [[9, 10, 11], [12], [13, 14]], 0, CPU)
    with torch.no_grad():
        packed = token_scores(model, batch, entropies=True, temperature=temperature).entropies
        padded = token_scores(model, batch, entropies=True, collisions=True, temperature=temperature).entropies
    assert packed is not None
    assert padded is not None
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    assert float(packed[1, 1:].abs().max()) == 0.0, "outside of the response"


def rows(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_steps_have_the_metrics_the_same_in_two_processes_and_after_a_resume(
    make_request: Make, run_until: Callable[[TrainRequest, Path, int], None], tmp_path: Path
) -> None:
    request = make_request(epochs=2, checkpoint_every=2, eval_every=3)
    (tmp_path / "whole" / "run").mkdir(parents=True)
    run(request, tmp_path / "whole" / "run")
    run_until(request, tmp_path / "killed", 5)
    (tmp_path / "resumed").mkdir()
    run(request, tmp_path / "resumed")
    assert read_json(tmp_path / "resumed" / "train.json")["resumed_from_step"] == 4
    run_stage(
        "dpo_train",
        make_request(epochs=2, num_processes=2, micro_batch_pairs=2, eval_every=3),
        tmp_path / "two",
        where=Placement(num_processes=2),
    )
    whole, resumed, two = (rows(tmp_path / name) for name in ("whole/run", "resumed", "two/dpo_train"))
    for name in (*NAMES, "log_ratios/per_token", "num_tokens"):
        assert [row[name] for row in resumed] == [row[name] for row in whole], name
        assert [row[name] for row in two] == pytest.approx([row[name] for row in whole], rel=1e-4, abs=1e-5), name
    assert whole[0]["log_ratios/per_token"] == pytest.approx(0.0, abs=1e-6)
    assert "eval/entropy" in whole[2]
    train_pairs = read_pairs(read_table(request.train), source="train.parquet")
    each = [2 * len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in train_pairs]
    plan = Plan([pair.tag for pair in train_pairs], 8, 2, request.seed)
    seen = 0
    for (_, index), row in zip(plan.steps(0), whole, strict=True):
        seen += sum(each[place] for place in index)
        assert row["num_tokens"] == seen
    assert seen == 2 * sum(each)


def test_loss_without_a_reference_has_no_log_ratio(make_request: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run(make_request(loss="simpo", beta=2.0), tmp_path / "run")
    assert all("log_ratios/per_token" not in row and row["entropy"] > 0 for row in rows(tmp_path / "run"))
