"""Every loss with all that may stand beside it, on a real model.

Known first values, and the same gradient however a step is cut.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from components.artifacts import read_table
from components.config import ConstraintsConfig, LossName, TrainingConfig
from components.dpo.batches import Layout, Pair, read_pairs
from components.dpo.constraints import constraints_of
from components.dpo.losses import LOSSES
from components.dpo.mixing import tag_weights
from components.dpo.objective import PAIR_LOSS, Objective, configured_loss
from components.dpo.objective_state import ObjectiveState
from components.dpo.reference import PairLogps, score_pairs
from components.dpo.responses import mismatched_answers, response_balance
from components.dpo.stage import _objectives, _Work
from components.models.loading import load_policy, load_tokenizer
from components.records import TrainRequest

NAMES = get_args(LossName)
RULES = ConstraintsConfig(banned_phrases=("sorry", "the"), max_tokens=12, weight=0.5)
Build = Callable[..., tuple[Any, Objective]]


@pytest.fixture(scope="module")
def loaded(make_request: Callable[..., TrainRequest]) -> tuple[Any, Any, list[Pair]]:
    """The start model, its tokenizer and eight pairs, some with soft labels."""
    request = make_request()
    tokenizer = load_tokenizer(request.policy)
    model = load_policy(request.policy, dtype=torch.float32, device=torch.device("cpu"))
    pairs = read_pairs(read_table(request.train), source="train.parquet")[:8]
    return model, tokenizer, pairs


def test_objective_of_a_replayed_pair_weighs_it_by_tag_and_age(
    loaded: tuple[Any, Any, list[Pair]], make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    _, tokenizer, pairs = loaded
    three = [replace(pairs[0], tag=tag, weight=weight) for tag, weight in (("a", 1.0), ("b", 1.0), ("b", 0.25))]
    logps = PairLogps(torch.zeros(4), torch.zeros(4))
    request = make_request(tag_weights={"a": 3})
    work = _Work(request, tmp_path, 0, 1, torch.device("cpu"), torch.float32, tokenizer, three, three[:1])
    objective, held_out = _objectives(work, logps)
    # 3 * 1, 1 * 1, 1 * 0.25: their mean is 4.25 / 3.
    assert objective.pair_weights.tolist() == pytest.approx([9 / 4.25, 3 / 4.25, 0.75 / 4.25])
    assert held_out.pair_weights.tolist() == [1.0]


@pytest.fixture
def build(loaded: tuple[Any, Any, list[Pair]]) -> Build:
    """The model and an objective over the pairs, the reference being the model itself, or the model a little moved."""
    model, tokenizer, all_pairs = loaded

    def make(
        *,
        constraints: ConstraintsConfig | None = None,
        moved: bool = False,
        pairs: list[Pair] = all_pairs,
        **changes: Any,
    ) -> Any:
        smoothing = {"label_smoothing": 0.1} if changes.get("loss") == "exo_pair" else {}
        training = TrainingConfig(**{"beta": 0.3} | smoothing | changes)
        loss = configured_loss(training)
        mismatched = mismatched_answers(pairs) if loss.needs_kl else None
        logps = score_pairs(
            model,
            pairs,
            tokenizer.pad_token_id,
            max_tokens=8192,
            max_rows=4,
            rank=0,
            world_size=1,
            ld_alpha=training.ld_alpha,
            mismatched=mismatched,
        )
        if moved:
            # None is zero: rounding would decide about its reward's sign.
            shift = torch.linspace(-3, 3.3, len(pairs))
            logps = logps._replace(chosen=logps.chosen + shift, rejected=logps.rejected - shift / 2)
        rules = constraints or ConstraintsConfig()
        chosen = constraints_of(rules, encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        state = ObjectiveState(rules, list(chosen), shifts_rewards=loss.needs_reward_shift)
        weights = tag_weights([pair.tag for pair in pairs], training.tag_weights)
        ids = {"pad_id": tokenizer.pad_token_id, "end_id": tokenizer.eos_token_id}
        beside = {"balance": response_balance(pairs), "constraints": chosen, "state": state}
        return model, Objective(pairs, logps, training, **ids, pair_weights=weights, **beside)

    return make


def step(model: Any, objective: Objective, micro_batch_pairs: int) -> tuple[dict[str, float], torch.Tensor]:
    """Means over the pairs, and the gradient of their mean loss, by one micro-batch size."""
    layout = Layout([pair.num_tokens for pair in objective.pairs], 8192, micro_batch_pairs)
    micro_batches = layout.micro_batches(list(range(len(objective.pairs))))
    kl = objective.kl(model, micro_batches, layout)
    model.zero_grad()
    totals = torch.zeros(len(objective.measures))
    for slots in micro_batches:
        result = objective.micro_batch(model, slots, kl)
        result.loss.backward()
        totals += result.sums
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return dict(zip(objective.measures, totals.tolist(), strict=True)), gradient


@pytest.mark.parametrize("loss", NAMES)
def test_objective_first_loss_is_the_known_one_and_moves_the_weights(loss: str, build: Build) -> None:
    model, objective = build(loss=loss)
    means, gradient = step(model, objective, 8)
    expected = objective.expected_first_loss(list(range(8)))
    assert (expected is None) == (LOSSES[loss].first_loss is None)
    if expected is not None:
        assert means[PAIR_LOSS] == pytest.approx(expected, abs=2e-5)
    assert means["loss"] == pytest.approx(means[PAIR_LOSS])
    assert torch.isfinite(gradient).all()
    assert gradient.norm() > 1e-4


@pytest.mark.parametrize("loss", [name for name in NAMES if not LOSSES[name].couples_batch])
def test_objective_other_micro_batches_same_gradient(loss: str, build: Build) -> None:
    model, objective = build(loss=loss, moved=True)
    whole, gradient = step(model, objective, 8)
    for size in (3, 1):
        means, other = step(model, objective, size)
        assert means == pytest.approx(whole, rel=1e-4, abs=1e-5)
        assert (other - gradient).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize(
    "changes",
    [
        {"added_losses": {"sft": 0.3, "hinge": 0.5}},
        {"divergence": "js"},
        {"divergence": "alpha", "divergence_alpha": 0.3},
        {"ld_alpha": 0.4},
        {"weighting": "wpo"},
        {"tag_weights": {"style": 3.0}},
        {"constraints": RULES},
        {
            "loss": "kto",
            "added_losses": {"simpo": 0.2},
            "constraints": RULES,
            "tag_weights": {"style": 2.0},
            "ld_alpha": 0.5,
        },
    ],
    ids=str,
)
def test_objective_what_stands_beside_a_loss_keeps_the_gradient_too(changes: dict[str, Any], build: Build) -> None:
    model, objective = build(moved=True, **changes)
    whole, gradient = step(model, objective, 8)
    means, other = step(model, objective, 3)
    assert means == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert (other - gradient).norm() <= 1e-4 * gradient.norm()
    plain = step(*build(loss=changes.get("loss", "sigmoid"), moved=True), 8)[1]
    assert (plain - gradient).norm() > 1e-3 * gradient.norm()


@pytest.mark.parametrize(
    "changes",
    [{"ld_alpha": 0.3}, {"weighting": "wpo"}, {"tag_weights": {"style": 4.0}}, {"constraints": RULES}],
    ids=str,
)
def test_objective_pair_loss_is_ln_2_at_the_start_whatever_stands_beside_it(
    changes: dict[str, Any], build: Build
) -> None:
    model, objective = build(**changes)
    assert step(model, objective, 8)[0][PAIR_LOSS] == pytest.approx(0.693147, abs=2e-5)


def test_objective_violations_are_measured_and_weighed_by_the_multiplier(build: Build) -> None:
    model, objective = build(constraints=RULES)
    means, _ = step(model, objective, 8)
    rates = {name: means[f"constraints/{name}/violation"] for name in ("banned_phrases", "max_tokens")}
    assert all(0 < rate <= 1 for rate in rates.values())
    assert means["loss"] == pytest.approx(means[PAIR_LOSS] + 0.5 * sum(rates.values()), rel=1e-5)
    objective.state.update(means, 8)
    multipliers = {name: 0.5 + rate - RULES.limit for name, rate in rates.items()}
    assert objective.state.multipliers.values == pytest.approx(multipliers)


def test_objective_state_comes_back_exactly_from_the_metrics(build: Build) -> None:
    model, objective = build(loss="bco_pair", moved=True, constraints=RULES)
    objective.state.update(step(model, objective, 8)[0], 8)
    record = objective.state.record()
    assert record["reward_shift"] != 0
    _, fresh = build(loss="bco_pair", moved=True, constraints=RULES)
    fresh.state.restore(record)
    assert fresh.state.record() == record
    shifted, plain = (
        step(model, fresh, 8)[0]["loss"],
        step(*build(loss="bco_pair", moved=True, constraints=RULES), 8)[0]["loss"],
    )
    assert shifted != pytest.approx(plain)


def taken_apart(pairs: list[Pair]) -> list[Pair]:
    """Every pair's two answers as unpaired responses, the desirable ones first."""
    return [replace(pair, rejected=[]) for pair in pairs] + [replace(pair, chosen=[]) for pair in pairs]


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_objective_unpaired_responses_are_the_pairs_they_were_taken_from(
    loss: str, build: Build, loaded: Any, monkeypatch: Any
) -> None:
    pairs = loaded[2]
    # The estimate of the KL depends on which row follows which, so both get the same one.
    monkeypatch.setattr(Objective, "kl", lambda self, *_: torch.tensor(0.7))
    of_pairs, gradient = step(*build(loss=loss, moved=True), 8)
    model, objective = build(loss=loss, pairs=taken_apart(pairs))
    _, moved = build(loss=loss, moved=True)
    halves = moved.reference
    none = torch.zeros(len(pairs))
    objective.reference = PairLogps(torch.cat([halves.chosen, none]), torch.cat([none, halves.rejected]))
    of_responses, same = step(model, objective, 16)
    assert of_responses["loss"] == pytest.approx(of_pairs["loss"], rel=1e-5)
    assert (same - gradient).norm() <= 1e-4 * gradient.norm()
    metrics, expected = objective.metrics(of_responses, None), moved.metrics(of_pairs, None)
    for name in ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"):
        assert metrics[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    assert not any(name.startswith("share/") for name in metrics)


@pytest.mark.parametrize("changes", [{}, {"ld_alpha": 0.5}, {"weighting": "wpo"}, {"constraints": RULES}], ids=str)
def test_objective_unpaired_responses_same_gradient_however_a_step_is_cut(
    changes: dict[str, Any], build: Build, loaded: Any
) -> None:
    model, objective = build(loss="kto", moved=True, pairs=taken_apart(loaded[2])[3:12], **changes)
    whole, gradient = step(model, objective, 9)
    for size in (1, 4):
        means, same = step(model, objective, size)
        assert means == pytest.approx(whole, rel=1e-4, abs=1e-5)
        assert (same - gradient).norm() <= 2e-4 * gradient.norm()


def test_objective_few_desirable_responses_pull_as_hard_as_many_undesirable_ones(build: Build, loaded: Any) -> None:
    pairs = loaded[2]
    rows = [replace(pair, rejected=[], p=1.0) for pair in pairs[:2]] + [
        replace(pair, chosen=[], p=1.0) for pair in pairs[2:]
    ]
    model, objective = build(loss="apo_zero_unpaired", pairs=rows)
    assert objective.settings["desirable_weight"] * 2 == pytest.approx(objective.settings["undesirable_weight"] * 6)
    means, _ = step(model, objective, 8)
    assert means["loss"] == pytest.approx(0.5, abs=1e-5)
    assert objective.expected_first_loss(range(8)) == pytest.approx(0.5)


def test_objective_step_without_a_desirable_response_tells_no_reward_of_one(build: Build, loaded: Any) -> None:
    model, objective = build(loss="kto", pairs=taken_apart(loaded[2]))
    [slots] = Layout([1] * 16, 8).micro_batches(list(range(8, 16)))
    sums = objective.micro_batch(model, slots, torch.tensor(0.0)).sums
    metrics = objective.metrics(dict(zip(objective.measures, sums.tolist(), strict=True)), None)
    assert "rewards/chosen" not in metrics
    assert "logps/chosen" not in metrics
    assert metrics["logps/rejected"] < 0


@pytest.mark.parametrize("changes", [{"loss": "sigmoid"}, {"loss": "kto", "added_losses": {"sft": 0.1}}], ids=str)
def test_objective_unpaired_response_for_a_loss_of_pairs_is_refused(
    changes: dict[str, Any], build: Build, loaded: Any
) -> None:
    with pytest.raises(
        ValueError,
        match=r"row 0 .* is an unpaired response, but training.loss (sigmoid|sft) takes pairs: set it to kto",
    ):
        build(pairs=taken_apart(loaded[2]), **changes)


def test_mismatched_answers_are_of_other_prompts() -> None:
    rows = [
        Pair([1], [10], [], 1.0),
        Pair([1], [], [11], 1.0),
        Pair([2], [12], [13], 1.0),
        Pair([3], [14], [], 1.0),
        Pair([3], [15], [], 1.0),
    ]
    assert mismatched_answers(rows) == [[12], [12], [14], [10], [10]]
    assert mismatched_answers([]) == []
