"""Round 0 is published only for a model that loads and samples."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.artifacts import read_json
from components.config import CampaignConfig
from components.records import StageFailed, StartRequest
from components.runtime.launch import run_stage
from components.start.preflight import check_inputs


@pytest.fixture
def copy(starter_directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(starter_directory, tmp_path / "model")
    return tmp_path / "model"


def start(model: Path, directory: Path) -> Any:
    config = CampaignConfig.model_validate({"campaign": "begun", "policy": {"model": str(model), "dtype": "float32"}})
    request = StartRequest(
        policy=config.policy,
        judge=config.judge,
        evaluation_judge=config.evaluation_judge,
        active_judge=config.active.judge,
        prompts=config.prompts,
        prompts_digest=check_inputs(config).prompts_digest,
    )
    run_stage("start", request, directory)
    return read_json(directory / "start" / "start.json")


def changed(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def test_start_model_that_answers_is_pinned(copy: Path, tmp_path: Path) -> None:
    pinned = start(copy, tmp_path / "round-000")["model"]
    assert (pinned["base"], pinned["base_round"], pinned["digest"]) == (str(copy), 0, pinned["base_digest"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights["lm_head.weight"].fill_(float("nan")), "logits are not finite"),
        (lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"][:, :8].clone()}), "."),
    ],
    ids=["not finite", "another shape"],
)
def test_start_model_that_cannot_answer_is_not_published(change: Any, message: str, copy: Path, tmp_path: Path) -> None:
    changed(copy, change)
    with pytest.raises(
        StageFailed,
        match=rf"start failed: ValueError: the start model .* cannot be loaded or sampled from: .*{message}",
    ) as failed:
        start(copy, tmp_path / "round-000")
    assert "\n" not in str(failed.value)
    assert not (tmp_path / "round-000" / "start").exists()
