"""What is not finite stops every rank before the step, with the weights as they were, and names the pairs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.artifacts import read_table
from components.data.messages import parse_messages
from components.data.prompts import prompt_id
from components.dpo import stage
from components.dpo import train as training_loop
from components.dpo.batches import Pair
from components.dpo.engine import full_weights
from components.dpo.finite import NonFiniteGradient, NonFiniteLoss, named, refuse_non_finite_reference
from components.dpo.reference import PairLogps
from components.models.loading import load_policy, start_ref
from components.records import ModelRef, StageFailed, TrainRequest
from components.runtime.launch import Placement, run_stage

Make = Callable[..., TrainRequest]
STAGES_AND_TYPES = [(zero_stage, dtype) for zero_stage in range(4) for dtype in ("float32", "bfloat16")]


def row_name(request: TrainRequest, row: int) -> str:
    prompt = read_table(request.train)["prompt"][row]
    return f"train.parquet row {row} (prompt {prompt_id(parse_messages(prompt))})"


def in_type(request: TrainRequest, dtype: str) -> TrainRequest:
    return request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": dtype})})


class Watched:
    """Builds the engine that the stage trains, and keeps it so that its weights can be looked at after the error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.build = stage.build_engine
        monkeypatch.setattr(stage, "build_engine", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.engine = self.build(*arguments, **options)
        return self.engine

    def moved(self, request: TrainRequest, dtype: torch.dtype) -> list[str]:
        weights = full_weights(self.engine)
        assert weights is not None
        start = load_policy(request.policy, dtype=dtype, device=torch.device("cpu")).state_dict()
        return [name for name, tensor in weights.items() if not torch.equal(tensor, start[name])]


def run_to_the_end(request: TrainRequest, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    stage.run(request, tmp_path / "run")


def poison(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, list[int]], Any]) -> None:
    original = training_loop.Objective.micro_batch

    def poisoned(self: Any, engine: Any, slots: Any, kl: Any) -> Any:
        return change(original(self, engine, slots, kl), [slot.pair for slot in slots])

    monkeypatch.setattr(training_loop.Objective, "micro_batch", poisoned)


@pytest.mark.parametrize(("zero_stage", "dtype"), STAGES_AND_TYPES)
def test_step_non_finite_gradient_changes_no_weight_and_names_the_step(
    zero_stage: int, dtype: str, make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = in_type(make_request(zero_stage=zero_stage, micro_batch_pairs=4, pairs_per_step=12), dtype)
    steps: list[list[int]] = []

    def broken(result: Any, pairs: list[int]) -> Any:
        steps.append(pairs)
        if len(steps) == 2:
            result.loss.register_hook(lambda gradient: gradient * math.nan)
        return result

    poison(monkeypatch, broken)
    watched = Watched(monkeypatch)
    with pytest.raises(
        NonFiniteGradient, match=r"gradient of step 1 is not finite, although its loss is.*and 1 more"
    ) as caught:
        run_to_the_end(request, tmp_path)
    assert row_name(request, steps[0][0]) in str(caught.value)
    assert str(caught.value).count("train.parquet row") == 10
    assert watched.moved(request, getattr(torch, dtype)) == []
    assert len(steps) == 3, "the step of three micro-batches was the last one"


@pytest.mark.parametrize(
    ("zero_stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer_and_parameters")]
)
def test_step_non_finite_gradient_offloaded_changes_no_weight(
    zero_stage: int, offload: str, make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(result: Any, pairs: list[int]) -> Any:
        result.loss.register_hook(lambda gradient: gradient * math.nan)
        return result

    poison(monkeypatch, broken)
    watched = Watched(monkeypatch)
    request = make_request(zero_stage=zero_stage, offload=offload)
    with pytest.raises(NonFiniteGradient):
        run_to_the_end(request, tmp_path)
    assert watched.moved(request, torch.float32) == []


@pytest.mark.parametrize(("zero_stage", "dtype"), [(0, "float32"), (2, "bfloat16")])
def test_step_gradient_too_large_for_its_norm_is_not_made(
    zero_stage: int, dtype: str, make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steep(result: Any, pairs: list[int]) -> Any:
        result.loss.register_hook(lambda gradient: gradient * 1e25)
        return result

    poison(monkeypatch, steep)
    watched = Watched(monkeypatch)
    request = in_type(make_request(zero_stage=zero_stage), dtype)
    with pytest.raises(NonFiniteGradient):
        run_to_the_end(request, tmp_path)
    assert watched.moved(request, getattr(torch, dtype)) == []


@pytest.fixture(scope="module")
def one_bad_token(
    starter_directory: Path, make_request: Make, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelRef, list[int]]:
    """A model that knows nothing finite about one token, and the training rows that hold it: some, but few."""
    request = make_request()
    tokenizer = AutoTokenizer.from_pretrained(starter_directory)
    pairs = stage.read_pairs(read_table(request.train), source="train.parquet")
    evaluated = stage.read_pairs(read_table(request.eval), source="eval.parquet")
    elsewhere = {token for pair in evaluated for token in pair.prompt + pair.chosen + pair.rejected}
    rows: dict[int, set[int]] = {}
    for row, pair in enumerate(pairs):
        for token in set(pair.prompt + pair.chosen + pair.rejected) - elsewhere:
            rows.setdefault(token, set()).add(row)
    token, found = min(rows.items(), key=lambda item: (len(item[1]), item[0]))
    assert 0 < len(found) < 5
    model = AutoModelForCausalLM.from_pretrained(starter_directory)
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = math.nan
    directory = tmp_path_factory.mktemp("bad") / "model"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return start_ref(directory, revision="main"), sorted(found)


def test_step_non_finite_loss_names_only_the_pairs_it_comes_from(
    one_bad_token: tuple[ModelRef, list[int]], make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, rows = one_bad_token
    request = make_request(policy=policy, pairs_per_step=22, micro_batch_pairs=3)
    watched = Watched(monkeypatch)
    with pytest.raises(NonFiniteLoss, match="the loss of step 1 is nan") as caught:
        run_to_the_end(request, tmp_path)
    for row in range(22):
        assert (row_name(request, row) in str(caught.value)) == (row in rows)
    weights = full_weights(watched.engine)
    assert weights is not None
    assert all(torch.isfinite(tensor).all() for name, tensor in weights.items() if "embed" not in name), (
        "no step was made"
    )


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_step_non_finite_loss_on_one_of_two_ranks_stops_both_and_names_the_pairs(
    zero_stage: int, one_bad_token: tuple[ModelRef, list[int]], make_request: Make, tmp_path: Path
) -> None:
    policy, rows = one_bad_token
    request = make_request(
        policy=policy, num_processes=2, pairs_per_step=22, micro_batch_pairs=2, zero_stage=zero_stage
    )
    with pytest.raises(StageFailed, match="dpo_train failed: NonFiniteLoss: the loss of step 1 is nan") as caught:
        run_stage("dpo_train", request, tmp_path, where=Placement(num_processes=2))
    assert [row for row in range(22) if row_name(request, row) in str(caught.value)] == rows
    assert not list(tmp_path.glob("dpo_train"))


def test_reference_non_finite_is_refused_before_training(
    one_bad_token: tuple[ModelRef, list[int]], make_request: Make, tmp_path: Path
) -> None:
    reference, rows = one_bad_token
    request = make_request(reference=reference)
    with pytest.raises(NonFiniteLoss, match="the reference's log-probabilities are not finite for") as caught:
        run_to_the_end(request, tmp_path)
    assert [row for row in range(22) if row_name(request, row) in str(caught.value)] == rows


def test_evaluation_pairs_non_finite_after_training_are_named(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(result: Any, pairs: list[int]) -> Any:
        if torch.is_grad_enabled():
            return result
        bad = torch.tensor([pair == 3 for pair in pairs])
        return result._replace(sums=result.sums * math.inf, finite=~bad)

    poison(monkeypatch, broken)
    with pytest.raises(
        NonFiniteLoss,
        match=r"of the evaluation pairs after training is inf; the pairs responsible: eval\.parquet row 3 \(prompt",
    ):
        run_to_the_end(make_request(), tmp_path)
    assert not list(tmp_path.glob("run/model*"))


def test_named_more_than_ten_pairs_counts_the_rest() -> None:
    pairs = [Pair([1], [2], [3], 1.0, f"row {row}") for row in range(13)]
    assert named(pairs) == "; ".join([f"row {row}" for row in range(10)] + ["and 3 more"])
    assert named(pairs[:10]) == "; ".join(f"row {row}" for row in range(10))


def test_reference_infinite_on_one_side_names_its_pair() -> None:
    pairs = [Pair([1], [2], [3], 1.0, f"row {row}") for row in range(3)]
    with pytest.raises(NonFiniteLoss, match="for row 1: check these pairs"):
        refuse_non_finite_reference(PairLogps(torch.zeros(3), torch.tensor([0.0, -math.inf, 0.0])), pairs)
    with pytest.raises(NonFiniteLoss, match="for row 2: check these pairs"):
        refuse_non_finite_reference(
            PairLogps(torch.zeros(3), torch.zeros(3), torch.tensor([0.0, 0.0, math.nan])), pairs
        )
