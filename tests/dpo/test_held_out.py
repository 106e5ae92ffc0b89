"""Evaluations during training: what they measure, which weights are published, when a training stops, and resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.artifacts import digest, file_digest, read_json, read_table, write_table
from components.config import CampaignConfig, LoraConfig, TrainingConfig
from components.dpo import held_out
from components.dpo.engine import accumulate, build_engine, full_weights, join_process_group, optimizer_step
from components.dpo.held_out import Evaluations, load_kept
from components.dpo.stage import run
from components.models.loading import load_policy
from components.records import Artifact, TrainRequest
from components.runtime import progress
from components.runtime.launch import Placement, run_stage

Make = Callable[..., TrainRequest]
BEST: dict[str, Any] = {"eval_every": 1, "keep": "best"}


def trained(request: TrainRequest, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    run(request, out)
    return read_json(out / "train.json")


def rows(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def in_bfloat16(request: TrainRequest) -> TrainRequest:
    return request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": "bfloat16"})})


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Replaces the losses of the evaluations during training by given ones, in order of the steps."""
    evaluate, measured = held_out.HeldOut.evaluate, held_out.evaluate_pairs

    def script(losses: list[float]) -> None:
        def at_step(self: Any, engine: Any, step: int) -> dict[str, float]:
            def told(*arguments: Any, when: str) -> dict[str, float]:
                metrics = measured(*arguments, when=when)
                assert metrics is not None
                return metrics | {"loss": losses[step - 1]}

            monkeypatch.setattr(held_out, "evaluate_pairs", told)
            return evaluate(self, engine, step)

        monkeypatch.setattr(held_out.HeldOut, "evaluate", at_step)

    return script


def test_evaluations_by_hand() -> None:
    lower = Evaluations(TrainingConfig(eval_every=1, patience=2))
    taken = [lower.add(step, value) for step, value in enumerate([0.7, 0.6, 0.6, 0.65], 1)]
    assert taken == [True, True, False, False]
    assert (lower.best, lower.num_since, lower.is_over) == ((2, 0.6), 2, True)
    higher = Evaluations(TrainingConfig(eval_every=1, keep="best", best_by="rewards/accuracies"))
    taken = [higher.add(step, value) for step, value in enumerate([0.5, 0.75, 0.75, 0.25, 1.0], 1)]
    assert taken == [True, True, False, False, True]
    assert (higher.best, higher.is_over) == ((5, 1.0), False)


def test_evaluations_stand_beside_their_steps_and_change_nothing_else(make_request: Make, tmp_path: Path) -> None:
    plain = trained(make_request(epochs=2), tmp_path / "plain")
    summary = trained(make_request(epochs=2, eval_every=4), tmp_path / "run")
    steps = rows(tmp_path / "run")
    assert [step["step"] for step in steps if "eval/loss" in step] == [4, 6], "every fourth, and the last one"
    for name in ("loss", "grad_norm", "rewards/margins"):
        assert [step[name] for step in steps] == [step[name] for step in rows(tmp_path / "plain")], name
    assert summary["policy_digest"] == plain["policy_digest"]
    measured = {name.removeprefix("eval/"): value for name, value in steps[-1].items() if name.startswith("eval/")}
    assert measured | {"num_pairs": 6} == summary["eval"] == plain["eval"]
    assert (summary["num_steps"], summary["planned_steps"], summary["published_step"]) == (6, 6, 6)
    assert summary["stopped_early"] is None
    assert not list((tmp_path / "checkpoints").glob("*/best-*")), "`keep: last` keeps nothing on disk"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_kept_weights_come_back_whole_into_a_trained_engine(
    dtype: str, zero_stage: int, make_request: Make, tmp_path: Path
) -> None:
    join_process_group()
    precision = getattr(torch, dtype)
    model: Any = load_policy(make_request().policy, dtype=precision, device=torch.device("cpu"))
    training = TrainingConfig(zero_stage=zero_stage, learning_rate=1e-2, warmup_share=0.0)
    engine = build_engine(model, training, num_steps=4, dtype=precision)
    ids = torch.arange(8).view(1, 8)

    def step() -> None:
        accumulate(engine, engine(input_ids=ids, labels=ids).loss, is_last=True)
        optimizer_step(engine)

    def values() -> dict[str, torch.Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in held_out.trained_weights(engine)}

    step()
    weights, masters = full_weights(engine), values()
    held_out._write(engine, tmp_path / "kept")
    step()
    moved = full_weights(engine)
    assert weights is not None
    assert moved is not None
    assert not any(torch.equal(moved[name], weights[name]) for name in weights if "proj" in name)
    load_kept(engine, tmp_path / "kept")
    restored = full_weights(engine)
    assert restored is not None
    assert all(torch.equal(restored[name], weights[name]) for name in weights)
    assert all(torch.equal(value, masters[name]) for name, value in values().items())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_best_step_is_published_with_its_masters(
    kind: str, make_request: Make, tmp_path: Path, scripted: Callable[[list[float]], None]
) -> None:
    """The second of three steps is best: what is published must be its weights, not those of the third."""
    lora = LoraConfig(rank=4, alpha=8) if kind == "lora" else None
    scripted([0.7, 0.6, 0.65])
    last = trained(in_bfloat16(make_request(lora=lora, **BEST | {"keep": "last"})), tmp_path / "last" / "run")
    best = trained(in_bfloat16(make_request(lora=lora, **BEST)), tmp_path / "best" / "run")
    assert (best["published_step"], best["num_steps"]) == (2, 3)
    assert best["best_evaluation"] == {"step": 2, "value": 0.6}
    assert best["policy_digest"] != last["policy_digest"]
    assert rows(tmp_path / "best" / "run")[2]["loss"] == rows(tmp_path / "last" / "run")[2]["loss"]
    (kept,) = (tmp_path / "best" / "checkpoints").glob("*/best-000002")
    masters = load_file(kept / "master-00001.safetensors")
    published = load_file(tmp_path / "best" / "run" / "master" / "master-00001.safetensors")
    assert published.keys() == masters.keys()
    assert all(torch.equal(published[name], masters[name]) for name in masters)
    assert best["eval"]["rewards/margins"] == pytest.approx(rows(tmp_path / "best" / "run")[1]["eval/rewards/margins"])


@pytest.mark.parametrize("losses", [[0.5, 0.6, 0.7, 0.4, 0.45, 0.46], [0.7, 0.6, 0.5, 0.4, 0.45, 0.46]])
def test_killed_training_resumes_with_the_same_best(
    losses: list[float],
    make_request: Make,
    tmp_path: Path,
    scripted: Callable[[list[float]], None],
    run_until: Callable[[TrainRequest, Path, int], None],
) -> None:
    """Killed in step 5: it goes on from step 2, whose best is not the best of step 4 that lies on the disk."""
    scripted(losses)
    request = make_request(epochs=2, checkpoint_every=2, **BEST)
    whole = trained(request, tmp_path / "whole" / "run")
    assert whole["published_step"] == 4
    run_until(request, tmp_path / "killed", 5)
    checkpoints = tmp_path / "checkpoints" / digest(request)[:16]
    shutil.rmtree(checkpoints / "step-000004")
    assert (checkpoints / "best-000004").is_dir()
    resumed = trained(request, tmp_path / "resumed")
    assert resumed["resumed_from_step"] == 2
    assert resumed["policy_digest"] == whole["policy_digest"]
    for name in ("published_step", "best_evaluation", "eval"):
        assert resumed[name] == whole[name], name


def test_killed_training_whose_best_lies_before_the_checkpoint_publishes_it(
    make_request: Make,
    tmp_path: Path,
    scripted: Callable[[list[float]], None],
    run_until: Callable[[TrainRequest, Path, int], None],
) -> None:
    scripted([0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    request = make_request(epochs=2, checkpoint_every=2, **BEST)
    whole = trained(request, tmp_path / "whole" / "run")
    run_until(request, tmp_path / "killed", 5)
    shutil.rmtree(tmp_path / "checkpoints" / digest(request)[:16] / "best-000001")
    resumed = trained(request, tmp_path / "resumed")
    assert (resumed["resumed_from_step"], resumed["published_step"]) == (4, 1)
    assert resumed["policy_digest"] == whole["policy_digest"]


class Heard:
    def __init__(self) -> None:
        self.texts: list[tuple[int, int, str]] = []

    def began(self, round: str, stage: str) -> None: ...

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...

    def advanced(self, done: int, total: int, text: str) -> None:
        self.texts.append((done, total, text))


def test_training_stops_when_patience_ends_and_says_so(
    make_request: Make, tmp_path: Path, scripted: Callable[[list[float]], None]
) -> None:
    scripted([0.6, 0.5, 0.55, 0.5, 0.4, 0.3])
    heard = Heard()
    with progress.reporting_to(heard):
        summary = trained(make_request(epochs=2, patience=2, **BEST), tmp_path / "run")
    told = "eval/loss was best behind step 2 (0.5000) and not better in 2 evaluations since (training.patience)"
    assert (4, 4, f"stopped early: {told}") in heard.texts
    assert summary["stopped_early"] == told
    assert (summary["num_steps"], summary["planned_steps"], summary["published_step"]) == (4, 6, 2)
    assert len(rows(tmp_path / "run")) == 4


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_processes_keep_the_best_that_one_keeps(zero_stage: int, make_request: Make, tmp_path: Path) -> None:
    settings = {"epochs": 2, "learning_rate": 1e-3, "best_by": "rewards/margins", **BEST}
    alone = trained(make_request(**settings), tmp_path / "one" / "run")
    request = make_request(num_processes=2, zero_stage=zero_stage, micro_batch_pairs=2, **settings)
    run_stage("dpo_train", request, tmp_path / "two", where=Placement(num_processes=2))
    together = read_json(tmp_path / "two" / "dpo_train" / "train.json")
    assert together["published_step"] == alone["published_step"]
    assert together["eval"]["loss"] == pytest.approx(alone["eval"]["loss"], abs=1e-4)
    for ours, theirs in zip(rows(tmp_path / "two" / "dpo_train"), rows(tmp_path / "one" / "run"), strict=True):
        assert ours["eval/loss"] == pytest.approx(theirs["eval/loss"], abs=1e-4)


def test_training_without_held_back_pairs_is_refused_in_one_line(make_request: Make, tmp_path: Path) -> None:
    request = make_request(eval_every=2)
    write_table(tmp_path / "eval.parquet", read_table(request.eval).head(0))
    nothing = Artifact(path=tmp_path / "eval.parquet", digest=file_digest(tmp_path / "eval.parquet"))
    with pytest.raises(ValueError, match=r"eval_every = 2 needs held-back pairs, and this round has none: raise"):
        trained(request.model_copy(update={"eval": nothing}), tmp_path / "run")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"training": {"eval_every": 5}, "validation": {"eval_share": 0}}, "eval_every 5 evaluates held-back pairs"),
        ({"training": {"keep": "best"}}, "keep best needs evaluations during the training: set `eval_every`"),
        ({"training": {"patience": 3}}, "patience 3 needs evaluations"),
        ({"training": {"eval_every": 5, "best_by": "rewards/margins"}}, "best_by rewards/margins has no effect"),
    ],
)
def test_evaluations_that_nothing_reads_or_makes_are_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CampaignConfig.model_validate({"campaign": "c"} | config)
