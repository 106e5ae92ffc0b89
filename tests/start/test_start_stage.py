"""Round 0 is published only for a model that loads and samples."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.artifacts import read_json, read_table
from components.config import CampaignConfig
from components.records import StageFailed, StartRequest
from components.runtime.launch import run_stage
from components.start.preflight import check_inputs


@pytest.fixture
def copy(starter_directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(starter_directory, tmp_path / "model")
    return tmp_path / "model"


def start(model: Path, directory: Path, **sections: Any) -> Any:
    policy = {"model": str(model), "dtype": "float32"}
    config = CampaignConfig.model_validate({"campaign": "begun", "policy": policy, **sections})
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


def write_prompts(path: Path, prompts: list[Any]) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


ANY_JUDGE = {"judge": {"kind": "llm", "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}}


def test_start_orders_the_held_out_prompts_by_content_and_not_by_their_file(copy: Path, tmp_path: Path) -> None:
    """An evaluation takes the first prompts: in a file that is sorted by topic they would all be of one topic."""
    topics = [f"{topic} question {number}" for topic in ("coding", "poems") for number in range(40)]
    tables = []
    for name, order in (("one", topics), ("other", topics[::-1])):
        prompts = {
            "train": write_prompts(tmp_path / f"train-{name}.jsonl", ["train"]),
            "held_out": write_prompts(tmp_path / f"held-{name}.jsonl", order),
        }
        start(copy, tmp_path / name, prompts=prompts, **ANY_JUDGE)
        tables.append(read_table(tmp_path / name / "start" / "held_out_prompts.parquet"))
    pd.testing.assert_frame_equal(*tables)
    assert 5 <= tables[0]["messages"].head(20).str.contains("coding").sum() <= 15


def test_start_refuses_tools_that_the_chat_template_leaves_out(copy: Path, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    calling = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "And in Rome?"},
    ]
    prompts = {
        "train": write_prompts(tmp_path / "train.jsonl", ["train", calling]),
        "held_out": write_prompts(tmp_path / "held.jsonl", ["held"]),
    }
    says = r"the chat template does not render .* the call of weather.*remove the row"
    with pytest.raises(StageFailed, match=says) as refused:
        start(copy, tmp_path / "round-000", prompts=prompts, **ANY_JUDGE)
    assert "train.jsonl line 2" in str(refused.value)
