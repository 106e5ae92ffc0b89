"""A campaign that begins with a training on demonstrations, through the real flow."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from components.artifacts import digest, identity, read_json
from components.builtin.world import held_out_prompts
from components.config import CampaignConfig
from components.data.demonstrations import HELD_OUT
from components.models.loading import start_ref
from components.records import ModelRefused
from flows.cli import app
from flows.requests import start_request
from tests.flows.test_campaign_flow import start
from tests.sft.conftest import WISH, write_demonstrations

Make = Callable[..., CampaignConfig]


def sft_of(path: Path, **settings: Any) -> dict[str, Any]:
    return {"demonstrations": str(path), "learning_rate": 1e-3, "rows_per_step": 8, "eval_share": 0.2, **settings}


def policy_of(starter: Path, copy: Path) -> dict[str, Any]:
    """A base of its own, which a test may change."""
    shutil.copytree(starter, copy)
    return {"model": str(copy), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40}


@pytest.mark.usefixtures("prefect_session")
def test_campaign_begins_with_the_model_that_was_trained_on_demonstrations(
    runs: Path, make_config: Make, tmp_path: Path, starter_directory: Path
) -> None:
    source = write_demonstrations(tmp_path / "d.jsonl", 60)
    leak = {"prompt": held_out_prompts()[0], "completion": WISH}
    with source.open("a") as file:
        file.write(json.dumps(leak) + "\n")
    begins = partial(make_config, sft=sft_of(source), policy=policy_of(starter_directory, tmp_path / "base"))
    state = start(begins())
    pinned = read_json(runs / "small/round-000/start/start.json")
    trained = start_ref(runs / "small/round-000/start/model", revision="main").digest
    base = start_ref(starter_directory, revision="main").digest
    assert pinned["model"]["digest"] == pinned["sft"]["model_digest"] == trained != base
    assert pinned["sft"]["base"]["digest"] == base
    assert pinned["sft"]["left_out"] == {HELD_OUT: 1}
    held_out = pinned["sft"]["held_out"]
    assert held_out["after"]["loss"] < held_out["before"]["loss"]
    assert read_json(runs / "small/round-001/dpo_train/train.json")["start_digest"] == trained
    assert [record["round"] for record in state["rounds"]] == [1]
    line = "the start model was trained on 48 demonstrations: held-out loss"
    assert line in (runs / "small/report.html").read_text()
    told = CliRunner().invoke(app, ["status", "small"])
    assert line in told.stdout
    cards = [path.read_text() for path in runs.rglob("README.md")]
    assert any("trained on demonstrations first" in card for card in cards)
    tree = CliRunner().invoke(app, ["lineage", "small/1"])
    assert "demonstrations" in tree.stdout

    times = {path: path.stat().st_mtime_ns for path in (runs / "small/round-000").glob("*/MANIFEST.json")}
    assert {path.parent.name for path in times} == {"sft", "start"}
    state = start(begins())
    assert [record["round"] for record in state["rounds"]] == [1, 2]
    state = start(begins(gate={"max_unfinished_increase": 0.9}), accept_changes=True)
    assert [record["round"] for record in state["rounds"]] == [1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in times} == times

    begins = partial(begins, gate={"max_unfinished_increase": 0.9})
    weights = tmp_path / "base/model.safetensors"
    content = load_file(weights)
    save_file({name: tensor * 2 for name, tensor in content.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"start model .*base: other weights.*finished rounds stand on"):
        start(begins())
    save_file(content, weights, metadata={"format": "pt"})
    write_demonstrations(source, 61)
    with pytest.raises(ValueError, match=r"demonstrations .*: another content.*finished rounds stand on"):
        start(begins())
    with pytest.raises(ValueError, match=r"sft.epochs: 1 -> 2"):
        start(begins(sft=sft_of(source, epochs=2)))


@pytest.mark.usefixtures("prefect_session")
def test_campaign_whose_demonstrations_make_the_model_worse_does_not_begin(
    runs: Path, make_config: Make, tmp_path: Path
) -> None:
    source = write_demonstrations(tmp_path / "d.jsonl", 60)
    with pytest.raises(ModelRefused, match="held-out demonstrations its loss is"):
        start(make_config(sft=sft_of(source, learning_rate=0.5)))
    assert not (runs / "small/round-000/start").exists()
    assert (runs / "small/round-000/rejected-sft/sft.json").is_file()


def test_campaign_without_demonstrations_has_the_start_of_earlier_versions(make_config: Make) -> None:
    request = start_request(make_config(), "prompts")
    assert request.sft is None
    assert "sft" not in identity(request)
    before = request.model_dump(exclude={"sft"})
    assert digest(type(request).model_validate(before)) == digest(request)


def test_campaign_setting_of_sft_without_demonstrations_is_refused(make_config: Make) -> None:
    with pytest.raises(ValueError, match="epochs has no effect without demonstrations"):
        make_config(sft={"epochs": 3})
    with pytest.raises(ValueError, match="lora has no effect without demonstrations"):
        make_config(sft={"lora": {"rank": 3}})
    resolved = make_config().model_dump(mode="json")
    assert CampaignConfig.model_validate(resolved) == make_config()
