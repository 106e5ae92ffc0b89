"""Small changes of bfloat16 weights add up over rounds; what is published is the rounded master."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.artifacts import digest, read_json
from components.campaign.models import MASTER
from components.config import LoraConfig, TrainingConfig
from components.dpo.stage import run
from components.models.loading import start_ref, trained_ref
from components.records import Artifact, ModelRef, TrainRequest
from components.runtime.launch import Placement, run_stage

Make = Callable[..., TrainRequest]
Weights = dict[str, torch.Tensor]
RATE = 1e-5
"""Three steps at this rate are below half a unit of most of the starter's bfloat16 weights."""


@pytest.fixture(scope="module")
def start(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The starter with weights that bfloat16 can hold, so that both precisions begin alike."""
    directory = tmp_path_factory.mktemp("rounded") / "model"
    shutil.copytree(starter_directory, directory)
    weights = {name: tensor.bfloat16().float() for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return start_ref(directory, revision="main")


def request_of_round(make_request: Make, policy: ModelRef, dtype: str = "bfloat16", **changes: Any) -> TrainRequest:
    request = make_request(policy=policy, reference=policy, **{"learning_rate": RATE, **changes})
    return request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": dtype})})


def weights_in(directory: Path) -> Weights:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def masters_of(stage: Path) -> Artifact | None:
    recorded = read_json(stage / "train.json")["master_digest"]
    return None if recorded is None else Artifact(path=stage / MASTER, digest=recorded)


def rounds(make_request: Make, start: ModelRef, place: Path, number: int, **changes: Any) -> list[Path]:
    """Train rounds one after another, each from the model and the masters of the one before."""
    policy, masters, stages = start, None, []
    for round in range(1, number + 1):
        request = request_of_round(make_request, policy, **changes).model_copy(update={"master": masters})
        stages.append(place / f"round-{round}")
        stages[-1].mkdir(parents=True)
        run(request, stages[-1])
        policy, masters = trained_ref(stages[-1], policy, round), masters_of(stages[-1])
    return stages


def update(weights: Weights, start: ModelRef) -> torch.Tensor:
    before = weights_in(Path(start.base))
    return torch.cat([(weights[name].float() - before[name]).flatten() for name in sorted(before)])


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def test_training_rounds_in_bfloat16_add_up_to_those_in_float32(
    make_request: Make, start: ModelRef, tmp_path: Path
) -> None:
    exact = rounds(make_request, start, tmp_path / "exact", 2, dtype="float32")
    kept = rounds(make_request, start, tmp_path / "kept", 2)
    lost = rounds(make_request, start, tmp_path / "lost", 2, keep_masters=False)
    wanted = update(weights_in(exact[-1] / "model"), start)
    masters = weights_in(kept[-1] / MASTER)
    distance = (update(masters, start) - wanted).norm() / wanted.norm()
    assert cosine(update(masters, start), wanted) > 0.99
    assert distance < 0.1
    published, forgetful = (update(weights_in(chain[-1] / "model"), start) for chain in (kept, lost))
    assert cosine(published, wanted) > cosine(forgetful, wanted) + 0.1
    assert not (lost[-1] / MASTER).exists()
    assert not (exact[-1] / MASTER).exists(), "float32 weights are their own masters"


def test_training_published_weights_are_the_rounded_masters_and_the_next_round_starts_at_ln_2(
    make_request: Make, start: ModelRef, tmp_path: Path
) -> None:
    stages = rounds(make_request, start, tmp_path, 2)
    for stage in stages:
        model, masters = weights_in(stage / "model"), weights_in(stage / MASTER)
        assert model.keys() == masters.keys()
        assert all(torch.equal(masters[name].bfloat16(), model[name]) for name in model)
        assert any(not torch.equal(masters[name], model[name].float()) for name in model)
    summaries = [read_json(stage / "train.json") for stage in stages]
    assert [summary["from_masters"] for summary in summaries] == [False, True]
    assert all(summary["ln2_checked"] for summary in summaries)


@pytest.mark.parametrize(("zero_stage", "num_processes"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_training_masters_are_kept_at_every_zero_stage(
    zero_stage: int, num_processes: int, make_request: Make, start: ModelRef, tmp_path: Path
) -> None:
    (first,) = rounds(make_request, start, tmp_path / "first", 1)
    policy = trained_ref(first, start, 1)
    request = request_of_round(make_request, policy, zero_stage=zero_stage, micro_batch_pairs=2)
    request = request.model_copy(update={"master": masters_of(first)})
    run_stage("dpo_train", request, tmp_path, where=Placement(num_processes=num_processes))
    stage = tmp_path / "dpo_train"
    assert read_json(stage / "train.json")["from_masters"]
    before, after = weights_in(first / MASTER), weights_in(stage / MASTER)
    most = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert RATE < most < 2.1 * RATE, "the rates of the three steps sum up to twice the peak"
    model = weights_in(stage / "model")
    assert all(torch.equal(after[name].bfloat16(), model[name]) for name in model)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_training_first_step_in_bfloat16_has_the_size_of_the_rate(
    zero_stage: int, make_request: Make, start: ModelRef, tmp_path: Path
) -> None:
    changes = {"zero_stage": zero_stage, "weight_decay": 0.1, "pairs_per_step": 22, "warmup_share": 0.0}
    (stage,) = rounds(make_request, start, tmp_path, 1, **changes)
    before, after = weights_in(Path(start.base)), weights_in(stage / MASTER)
    name = "model.layers.0.mlp.down_proj.weight"
    change = (after[name] - before[name] * (1 - 0.1 * RATE)).abs()
    assert float(change.median()) == pytest.approx(RATE, rel=0.01), "Adam's first step is the rate, by its definition"


def test_training_without_its_removed_masters_says_so_and_starts_from_what_was_published(
    make_request: Make, start: ModelRef, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = rounds(make_request, start, tmp_path / "first", 1)
    masters = masters_of(first)
    shutil.rmtree(first / MASTER)
    request = request_of_round(make_request, trained_ref(first, start, 1)).model_copy(update={"master": masters})
    (tmp_path / "second").mkdir()
    with caplog.at_level(logging.WARNING):
        run(request, tmp_path / "second")
    assert not read_json(tmp_path / "second" / "train.json")["from_masters"]
    assert "were removed: this round starts from the published bfloat16 weights" in caplog.text


def test_training_from_damaged_masters_is_refused(make_request: Make, start: ModelRef, tmp_path: Path) -> None:
    (first,) = rounds(make_request, start, tmp_path / "first", 1)
    masters, policy = masters_of(first), trained_ref(first, start, 1)
    (file,) = (first / MASTER).iterdir()
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # the last bit of a master, which rounding does not show
    file.write_bytes(content)
    request = request_of_round(make_request, policy).model_copy(update={"master": masters})
    (tmp_path / "second").mkdir()
    with pytest.raises(RuntimeError, match=r"no longer match their recorded digest: restore .*master, or remove it"):
        run(request, tmp_path / "second")


def test_training_from_masters_of_another_policy_is_refused(
    make_request: Make, start: ModelRef, tmp_path: Path
) -> None:
    first, second = rounds(make_request, start, tmp_path / "rounds", 2)
    request = request_of_round(make_request, trained_ref(first, start, 1))
    (tmp_path / "third").mkdir()
    with pytest.raises(RuntimeError, match="does not round to the policy's weight"):
        run(request.model_copy(update={"master": masters_of(second)}), tmp_path / "third")


def test_training_adapter_keeps_its_masters_and_does_not_read_those_of_all_weights(
    make_request: Make, start: ModelRef, tmp_path: Path
) -> None:
    (first,) = rounds(make_request, start, tmp_path / "first", 1)
    policy, lora = trained_ref(first, start, 1), LoraConfig(rank=4, alpha=8)
    request = request_of_round(make_request, policy, lora=lora).model_copy(update={"master": masters_of(first)})
    (tmp_path / "second").mkdir()
    run(request, tmp_path / "second")
    assert not read_json(tmp_path / "second" / "train.json")["from_masters"]
    again = rounds(make_request, policy, tmp_path / "adapters", 2, lora=lora)
    assert read_json(again[1] / "train.json")["from_masters"]
    assert all("lora" in name for name in weights_in(again[1] / MASTER))


def test_request_without_masters_has_the_key_that_it_had_before_there_were_any(make_request: Make) -> None:
    request = make_request()
    fields = {
        name: getattr(request, name) for name in type(request).model_fields if name not in type(request).ADDED_LATER
    }
    former = TrainingConfig.model_fields.keys() - set(TrainingConfig.ADDED_LATER)
    training = {name: getattr(request.training, name) for name in TrainingConfig.model_fields if name in former}
    assert digest(request) == digest(fields | {"training": training})
    masters = Artifact(path=Path("master"), digest="1")
    assert digest(request.model_copy(update={"master": masters})) != digest(request)
