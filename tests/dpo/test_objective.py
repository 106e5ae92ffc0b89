"""Every loss with all that may stand beside it, on a real model.

Known first values, and the same gradient however a step is cut.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.artifacts import read_table
from components.config import ConstraintsConfig, LossName, TrainingConfig
from components.dpo.batches import Layout, Pair, read_pairs
from components.dpo.constraints import constraints_of
from components.dpo.losses import LOSSES
from components.dpo.mixing import tag_weights
from components.dpo.objective import PAIR_LOSS, REFERENCE, Objective, StepValues, configured_loss
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
            shifts = {"chosen": shift, "ld_chosen": shift, "rejected": -shift / 2, "ld_rejected": -shift / 2}
            before = {name: getattr(logps, name) for name in shifts}
            after = {name: values + shifts[name] for name, values in before.items() if values is not None}
            logps = logps._replace(**after)
        rules = constraints or ConstraintsConfig()
        chosen = constraints_of(rules, encode=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        state = ObjectiveState(rules, list(chosen), shifts_rewards=loss.needs_reward_shift)
        weights = tag_weights([pair.tag for pair in pairs], training.tag_weights)
        ids = {"pad_id": tokenizer.pad_token_id, "end_ids": [tokenizer.eos_token_id]}
        beside = {"balance": response_balance(pairs), "constraints": chosen, "state": state}
        return model, Objective(pairs, logps, training, **ids, pair_weights=weights, **beside)

    return make


def step(model: Any, objective: Objective, micro_batch_pairs: int) -> tuple[dict[str, float], torch.Tensor]:
    """Means over the pairs, and the gradient of their mean loss, by one micro-batch size."""
    layout = Layout([pair.num_tokens for pair in objective.pairs], 8192, micro_batch_pairs)
    micro_batches = layout.micro_batches(list(range(len(objective.pairs))))
    values = objective.step_values(model, micro_batches, layout)
    model.zero_grad()
    totals = torch.zeros(len(objective.measures))
    for slots in micro_batches:
        result = objective.micro_batch(model, slots, values)
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


@pytest.mark.parametrize("loss", NAMES)
def test_objective_other_micro_batches_same_gradient(loss: str, build: Build) -> None:
    model, objective = build(loss=loss, moved=True)
    whole, gradient = step(model, objective, 8)
    for size in (3, 1):
        means, other = step(model, objective, size)
        assert means == pytest.approx(whole, rel=1e-4, abs=1e-5)
        assert (other - gradient).norm() <= 1e-4 * gradient.norm()


def aot_by_loop(
    logps: list[tuple[torch.Tensor, torch.Tensor]], reference: PairLogps, *, paired: bool, beta: float
) -> torch.Tensor:
    """The AOT loss of the whole step: sorted values of one kind against those of the other, in a plain loop."""
    upper, lower = [], []
    for pair, (chosen, rejected) in enumerate(logps):
        ref_chosen, ref_rejected = float(reference.chosen[pair]), float(reference.rejected[pair])
        upper.append(chosen - rejected if paired else chosen - ref_chosen)
        lower.append(torch.tensor(ref_chosen - ref_rejected).double() if paired else rejected - ref_rejected)
    matched = zip(sorted(upper, key=torch.Tensor.item), sorted(lower, key=torch.Tensor.item), strict=True)
    losses = [-torch.nn.functional.logsigmoid(beta * (above - below)) for above, below in matched]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_objective_aot_compares_quantiles_of_the_whole_step(
    loss: str, build: Build, loaded: Any, make_request: Callable[..., TrainRequest]
) -> None:
    model, objective = build(loss=loss, moved=True)
    reference = objective.reference
    # The order of the reference's margins is another than that of the policy's.
    objective.reference = reference = reference._replace(chosen=reference.chosen.roll(3))
    exact = AutoModelForCausalLM.from_pretrained(make_request().policy.base, dtype=torch.float64)

    def logp(prompt: list[int], answer: list[int]) -> torch.Tensor:
        logits = exact(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(dim=1)[range(len(answer)), answer].sum()

    logps = [(logp(pair.prompt, pair.chosen), logp(pair.prompt, pair.rejected)) for pair in loaded[2]]
    expected = aot_by_loop(logps, reference, paired=loss == "aot", beta=0.3)
    expected.backward()
    expected_gradient = torch.cat([weight.grad.flatten() for weight in exact.parameters() if weight.grad is not None])
    _, sigmoid = build()
    sigmoid.reference = reference
    assert abs(step(model, sigmoid, 8)[0]["loss"] - expected.item()) > 1e-2, "quantiles of one pair are its own values"
    for size in (1, 3, 8):
        means, gradient = step(model, objective, size)
        assert means["loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert (gradient - expected_gradient).norm() <= 1e-4 * expected_gradient.norm()


def test_objective_pair_that_is_twice_in_a_step_counts_twice(build: Build) -> None:
    """`tag_shares` repeats pairs."""
    model, objective = build(loss="aot_unpaired", moved=True)
    layout = Layout([pair.num_tokens for pair in objective.pairs], 8192, 8)
    results = []
    for size in (8, 1):
        micro_batches = replace(layout, max_pairs=size).micro_batches([0, 3, 0, 5, 6])
        values = objective.step_values(model, micro_batches, layout)
        assert (values.coupled is None) == (size == 8)
        model.zero_grad()
        parts = [objective.micro_batch(model, slots, values) for slots in micro_batches]
        sum(part.loss for part in parts).backward()
        gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
        results.append((sum(part.sums for part in parts), gradient))
    (whole, gradient), (cut, other) = results
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)
    assert (other - gradient).norm() <= 1e-4 * gradient.norm()


@pytest.mark.parametrize(
    "changes", [{"loss": "rpo"}, *({"added_losses": {name: 0.5}} for name in ("sft", "orpo", "simpo", "cpo"))], ids=str
)
def test_objective_ld_alpha_leaves_likelihoods_alone(changes: dict[str, Any], build: Build) -> None:
    """At `ld_alpha: 0` an answer of 300 tokens beside one of 100 had a third of its likelihood."""
    (whole, gradient), (changed, other) = (step(*build(**changes, ld_alpha=alpha), 8) for alpha in (1.0, 0.0))
    # Policy and reference are the same, so log-ratios are 0 however they are summed.
    assert changed["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    assert changed["logps/chosen"] == pytest.approx(whole["logps/chosen"])
    assert (other - gradient).norm() > 1e-2 * gradient.norm(), "the log-ratios' gradient knows no ld_alpha"


def test_reference_sums_whole_answers_whatever_ld_alpha_is(loaded: tuple[Any, Any, list[Pair]]) -> None:
    """The diagnosis compares them with the policy's whole answers, and found a displacement where there was none."""
    model, tokenizer, pairs = loaded
    limits = {"max_tokens": 8192, "max_rows": 4, "rank": 0, "world_size": 1}
    whole, shortened = (
        score_pairs(model, pairs, tokenizer.pad_token_id, ld_alpha=alpha, **limits) for alpha in (1.0, 0.3)
    )
    assert torch.equal(shortened.chosen, whole.chosen)
    assert torch.equal(shortened.rejected, whole.rejected)
    assert whole.ld_chosen is None
    longer = torch.tensor([len(pair.chosen) > len(pair.rejected) for pair in pairs])
    assert torch.equal(shortened.ld_chosen > shortened.chosen, longer)
    assert torch.equal(shortened.ld_rejected > shortened.rejected, ~longer)


def test_objective_kto_with_ld_alpha_reads_shortened_log_ratios(build: Build) -> None:
    model, objective = build(loss="kto", moved=True, ld_alpha=0.0)
    micro_batches = Layout([1] * 8, 8).micro_batches(range(8))
    values = objective.step_values(model, micro_batches, Layout([1] * 8, 8))
    before = objective.micro_batch(model, micro_batches[0], values).sums
    objective.reference = objective.reference._replace(chosen=torch.zeros(8), rejected=torch.zeros(8))
    after = objective.micro_batch(model, micro_batches[0], values).sums
    others = [place for place, name in enumerate(objective.measures) if name != REFERENCE]
    assert torch.equal(after[others], before[others]), "the loss read the plain sums"


def test_objective_any_stop_token_ends_an_answer_within_its_ceiling(build: Build, loaded: Any) -> None:
    """Gemma and Phi-3 end turns with another token than the tokenizer's end of sequence."""
    model, tokenizer, _ = loaded
    end, other = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("the")
    violations = {}
    for ids in ([other], [end], [end, other], range(len(tokenizer))):
        _, objective = build(constraints=ConstraintsConfig(max_tokens=1))
        objective.end_ids = list(ids)
        violations[tuple(objective.end_ids)] = step(model, objective, 8)[0]["constraints/max_tokens/violation"]
    neither, first, both, anything = violations.values()
    # An answer ends with the one or the other, so the probabilities of going on add up: (1 - a) + (1 - b) - 1.
    assert both == pytest.approx(neither + first - 1, abs=1e-5)
    assert anything == pytest.approx(0.0, abs=1e-5)


def test_objective_accuracy_follows_the_label(build: Build, loaded: Any) -> None:
    """Seed pairs may say that the rejected answer is the better one."""
    model, objective = build()
    shift = torch.tensor([9.0] * 6 + [-9.0] * 2)
    objective.reference = objective.reference._replace(chosen=objective.reference.chosen + shift)
    for p, expected in ((0.9, 2 / 8), (0.2, 6 / 8), (0.5, 0.5)):
        objective.pairs = [replace(pair, p=p) for pair in loaded[2]]
        assert step(model, objective, 8)[0]["rewards/accuracies"] == pytest.approx(expected), p


@pytest.mark.parametrize(
    "changes",
    [
        {"added_losses": {"sft": 0.3, "hinge": 0.5}},
        {"divergence": "js"},
        {"divergence": "alpha", "divergence_alpha": 0.3},
        {"ld_alpha": 0.4},
        {"weighting": "wpo"},
        {"loss": "aot_unpaired", "weighting": "wpo", "tag_weights": {"style": 0.0}, "ld_alpha": 0.5},
        {"loss": "aot", "added_losses": {"sft": 0.3, "kto": 0.2}, "constraints": RULES},
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
    monkeypatch.setattr(Objective, "_kl", lambda self, *_: torch.tensor(0.7))
    of_pairs, gradient = step(*build(loss=loss, moved=True), 8)
    model, objective = build(loss=loss, pairs=taken_apart(pairs))
    _, moved = build(loss=loss, moved=True)
    halves = moved.reference
    none = torch.zeros(len(pairs))
    objective.reference = PairLogps(torch.cat([halves.chosen, none]), torch.cat([none, halves.rejected]))
    of_responses, same = step(model, objective, 16)
    assert of_responses["loss"] == pytest.approx(of_pairs["loss"], rel=1e-5)
    assert (same - gradient).norm() <= 1e-4 * gradient.norm()
    metrics, expected = objective.metrics(of_responses, StepValues()), moved.metrics(of_pairs, StepValues())
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
    sums = objective.micro_batch(model, slots, StepValues(torch.tensor(0.0))).sums
    metrics = objective.metrics(dict(zip(objective.measures, sums.tolist(), strict=True)), StepValues())
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
