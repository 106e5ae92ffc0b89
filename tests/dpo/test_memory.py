"""What saves memory changes nothing that is learned.

Offload and gradient checkpointing give the losses that plain training gives.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.artifacts import read_json
from components.config import CampaignConfig, LoraConfig, SoftPromptConfig, TrainingConfig, describe
from components.dpo.stage import run
from components.records import TrainRequest
from components.runtime.launch import Placement, run_stage

Make = Callable[..., TrainRequest]
LORA = LoraConfig(rank=4, alpha=8)


def losses(request: TrainRequest, out: Path) -> list[float]:
    out.mkdir()
    run(request, out)
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(make_request: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    directory = tmp_path_factory.mktemp("plain")
    return {
        name: losses(make_request(**settings), directory / name)
        for name, settings in (("full", {}), ("lora", {"lora": LORA}))
    }


@pytest.mark.parametrize(
    ("zero_stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "optimizer_and_parameters")]
)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_offload_same_losses(
    kind: str, zero_stage: int, offload: str, plain: dict[str, list[float]], make_request: Make, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"lora": LORA} if kind == "lora" else {}
    found = losses(make_request(zero_stage=zero_stage, offload=offload, **settings), tmp_path / "run")
    assert found == pytest.approx(plain[kind], abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"gradient_checkpointing": True}, {"soft_prompt": SoftPromptConfig(kind="prefix", num_tokens=4)}],
    ids=["full", "prefix"],
)
def test_sharded_and_offloaded_on_two_processes_in_bfloat16_is_saved_whole(
    settings: dict[str, Any], make_request: Make, tmp_path: Path
) -> None:
    """The stage itself loads what it saved, and compares scores and answers."""
    sharding: dict[str, Any] = {"zero_stage": 3, "offload": "optimizer_and_parameters", "learning_rate": 1e-2}
    request = make_request(num_processes=2, micro_batch_pairs=2, **sharding, **settings)
    request = request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": "bfloat16"})})
    run_stage("dpo_train", request, tmp_path, where=Placement(num_processes=2))
    trained = read_json(tmp_path / "dpo_train" / "train.json")
    assert trained["dtype"] == "bfloat16"
    reason = "virtual tokens stand before the prompts" if "soft_prompt" in settings else None
    assert trained["scoring"] == {"packed": reason is None, "reason": reason}


def test_sharded_weights_in_bfloat16_are_tried_as_they_are_gathered(make_request: Make, tmp_path: Path) -> None:
    """Without a reference the engine's own forward is tried first, and its weights are gone between two forwards."""
    request = make_request(num_processes=2, micro_batch_pairs=2, zero_stage=3, loss="orpo", learning_rate=1e-2)
    request = request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": "bfloat16"})})
    run_stage("dpo_train", request, tmp_path, where=Placement(num_processes=2))
    assert read_json(tmp_path / "dpo_train" / "train.json")["scoring"] == {"packed": True, "reason": None}


@pytest.mark.parametrize("settings", [{"lora": LORA}, {"soft_prompt": SoftPromptConfig(kind="prompt", num_tokens=4)}])
def test_gradient_checkpointing_with_an_adapter_same_losses(
    settings: dict[str, Any], make_request: Make, tmp_path: Path
) -> None:
    checkpointed = losses(make_request(gradient_checkpointing=True, **settings), tmp_path / "checkpointed")
    assert checkpointed == pytest.approx(losses(make_request(**settings), tmp_path / "plain"), abs=1e-5)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"training": {"offload": "optimizer"}},
            r"offload optimizer needs ZeRO stage 1: set `zero_stage: 1`, or `offload: none`",
        ),
        (
            {"training": {"offload": "optimizer_and_parameters", "zero_stage": 2}},
            r"needs ZeRO stage 3: set `zero_stage: 3`",
        ),
        (
            {"lora": {"rank": 4}, "soft_prompt": {"kind": "prefix"}},
            r"set `lora: \{rank: 0\}` or `soft_prompt: \{kind: none\}`",
        ),
        ({"lora": {"kind": "dora"}}, r"dora needs a rank: set `lora: \{kind: dora, rank: 16\}`"),
        (
            {"soft_prompt": {"kind": "prefix"}, "training": {"gradient_checkpointing": True}},
            r"set `training: \{gradient_checkpointing: false\}`",
        ),
        ({"policy": {"quantization": "4bit"}}, r"cannot train all weights: set `lora: \{rank: 16\}`"),
        (
            {"policy": {"quantization": "4bit"}, "lora": {"rank": 4}, "training": {"zero_stage": 3}},
            r"cannot be sharded: set `training: \{zero_stage: 2\}`",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused_in_one_line(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told) as refused:
        CampaignConfig.model_validate({"campaign": "memory", **section})
    assert "\n" not in describe(refused.value)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_offload_is_accepted_from_its_stage_on(zero_stage: int) -> None:
    assert TrainingConfig.model_validate({"offload": "optimizer", "zero_stage": zero_stage}).offload == "optimizer"
