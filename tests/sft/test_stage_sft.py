"""A model is trained on the built-in world's replies, measured, and is then what a campaign can begin with."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.artifacts import read_json
from components.config import LoraConfig, SftConfig
from components.data.demonstrations import read_demonstrations
from components.models.directory import check_model_directory, check_policy_directory
from components.models.loading import start_ref
from components.models.tokens import ChatTokenizer
from components.models.turns import assistant_turns
from components.records import Artifact, ModelRefused, SftRequest, StageFailed
from components.runtime.launch import Placement, run_stage
from components.sft import stage

SETTINGS = SftConfig(dtype="float32", learning_rate=1e-3, rows_per_step=16, eval_share=0.25)


def request(source: str, base: Path, **changes: Any) -> SftRequest:
    digest = read_demonstrations(source, split="train").digest
    return SftRequest(
        base=start_ref(base, revision="main"),
        demonstrations=Artifact(path=Path(source), digest=digest),
        split="train",
        settings=SETTINGS.model_copy(update=changes),
    )


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "sft/metrics.jsonl").read_text().splitlines()]


def plain_loss(model: Path, source: str) -> float:
    """Mean loss per trained token of all conversations by transformers alone, row by row."""
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(model))
    total, count = 0.0, 0
    with torch.no_grad():
        for row in read_demonstrations(source, split="train").rows:
            turns = assistant_turns(chat, row.messages, last_only=False)
            ids, trained = torch.tensor([turns.token_ids]), torch.tensor(turns.trained)
            labels = torch.where(trained, ids, -100)
            total += float(network(input_ids=ids, labels=labels).loss) * sum(turns.trained)
            count += sum(turns.trained)
    return total / count


def test_sft_lowers_the_held_out_loss_and_publishes_an_ordinary_model(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path
) -> None:
    source = rows(200)
    run_stage("sft", request(source, starter_directory, epochs=2), tmp_path / "out")
    out = tmp_path / "out/sft"
    result = read_json(out / "sft.json")
    before, after = result["held_out"]["before"], result["held_out"]["after"]
    assert after["loss"] < before["loss"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert result["train"]["rows"] + result["held_out"]["rows"] == 200
    assert result["scoring"] == {"packed": True, "reason": None}
    assert result["left_out"] == {}
    assert 0 < result["train"]["trained_tokens"] < result["train"]["tokens"]
    assert result["num_steps"] == len(losses(tmp_path / "out")) == 2 * -(-result["train"]["rows"] // 16)
    assert result["seconds"] > 0
    assert (out / "plots/loss.png").read_bytes().startswith(b"\x89PNG")
    check_model_directory(out)
    check_policy_directory(out, trains_adapter=False)
    assert start_ref(out, revision="main").digest == result["model_digest"]
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(out))
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id in (
        [*chat.stop_ids],
        *chat.stop_ids,
    )


def test_sft_first_loss_and_held_out_loss_are_the_bases_on_the_same_rows(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one step, and the training rows held out too, both are the same number, and it is transformers' own."""
    prepared = stage.prepare_rows

    def same_rows(*arguments: Any, **named: Any) -> Any:
        found = prepared(*arguments, **named)
        every = [*found.train, *found.held_out]
        return found._replace(train=every, held_out=every)

    monkeypatch.setattr(stage, "prepare_rows", same_rows)
    source = rows(24)
    run_stage("sft", request(source, starter_directory, rows_per_step=24), tmp_path / "out")
    result = read_json(tmp_path / "out/sft/sft.json")
    exact = plain_loss(starter_directory, source)
    assert result["first_loss"] == pytest.approx(exact, abs=1e-5)
    assert result["held_out"]["before"]["loss"] == pytest.approx(exact, abs=1e-5)
    assert result["held_out"]["after"]["loss"] == pytest.approx(plain_loss(tmp_path / "out/sft", source), abs=1e-5)


def test_sft_of_an_adapter_is_published_merged(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path
) -> None:
    lora = LoraConfig(rank=4, dropout=0.1)
    run_stage(
        "sft",
        request(rows(96), starter_directory, lora=lora, learning_rate=1e-2, epochs=2, gradient_checkpointing=True),
        tmp_path,
    )
    out = tmp_path / "sft"
    result = read_json(out / "sft.json")
    assert result["trained"] == "lora of rank 4, alpha 32"
    assert result["held_out"]["after"]["loss"] < result["held_out"]["before"]["loss"]
    assert not list(out.rglob("adapter*"))
    assert result["model_digest"] == start_ref(out, revision="main").digest != result["base"]["digest"]


def test_sft_takes_the_same_steps_whatever_the_micro_batches_are(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path
) -> None:
    source = rows(48)
    for name, changes in (("eight", {"micro_batch_rows": 8}), ("one", {"micro_batch_rows": 1})):
        run_stage("sft", request(source, starter_directory, rows_per_step=8, **changes), tmp_path / name)
    assert len(losses(tmp_path / "one")) > 2
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "eight"), abs=1e-5)


def test_sft_of_two_processes_is_that_of_one(rows: Callable[..., str], starter_directory: Path, tmp_path: Path) -> None:
    """An odd number of rows of different lengths: the ranks have other numbers of tokens than each other."""
    source = rows(37)
    for name, stage_of_zero, processes in (("one", 0, 1), ("two", 0, 2), ("sharded", 3, 2)):
        asked = request(source, starter_directory, zero_stage=stage_of_zero, rows_per_step=9)
        run_stage("sft", asked, tmp_path / name, where=Placement(num_processes=processes))
    one, two, sharded = (losses(tmp_path / name) for name in ("one", "two", "sharded"))
    assert len(one) > 2
    assert two == pytest.approx(one, abs=1e-5)
    assert sharded == pytest.approx(one, abs=1e-4)
    results = [read_json(tmp_path / name / "sft/sft.json")["held_out"]["after"]["loss"] for name in ("one", "two")]
    assert results[1] == pytest.approx(results[0], abs=1e-5)


def test_sft_that_is_interrupted_goes_on_to_the_same_tensors(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = request(rows(48), starter_directory, epochs=2, checkpoint_every=2)
    whole = run_stage("sft", small, tmp_path / "whole")
    made = {"steps": 0}
    plain = stage.SftObjective.step_values

    def dies(*arguments: Any) -> Any:
        made["steps"] += 1
        if made["steps"] == 5:  # the first is the measurement before the training
            raise RuntimeError("the power failed")
        return plain(*arguments)

    monkeypatch.setattr(stage.SftObjective, "step_values", dies)
    with pytest.raises(StageFailed, match="the power failed"):
        run_stage("sft", small, tmp_path / "cut")
    assert not (tmp_path / "cut/sft").exists()
    monkeypatch.setattr(stage.SftObjective, "step_values", plain)
    resumed = run_stage("sft", small, tmp_path / "cut")
    assert read_json(tmp_path / "cut/sft/sft.json")["resumed_from_step"] == 2
    assert resumed.files["model.safetensors"] == whole.files["model.safetensors"]


def test_sft_in_bfloat16_trains_on_fp32_masters(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path
) -> None:
    """A rate at which bfloat16 weights alone would stay where they are moves the masters, and at last the weights."""
    source = rows(96)
    changes = {"dtype": "bfloat16", "learning_rate": 2e-5, "epochs": 4, "schedule": "constant"}
    run_stage("sft", request(source, starter_directory, **changes), tmp_path)
    result = read_json(tmp_path / "sft/sft.json")
    assert result["dtype"] == "bfloat16"
    assert result["held_out"]["after"]["loss"] < result["held_out"]["before"]["loss"]


def test_sft_whose_held_out_loss_rises_is_refused_and_kept_apart(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path
) -> None:
    source = rows(48)
    diverging = request(source, starter_directory, learning_rate=0.2)
    told = (
        r"not published: on held-out demonstrations its loss is \d+\.\d+ nats per token, and that of its base is "
        r"\d+\.\d+.*or set require_improvement: false; the model is in .*rejected-"
    )
    with pytest.raises(ModelRefused, match=told):
        run_stage("sft", diverging, tmp_path)
    assert not (tmp_path / "sft").exists()
    allowed = request(source, starter_directory, learning_rate=0.2, require_improvement=False)
    run_stage("sft", allowed, tmp_path)
    held_out = read_json(tmp_path / "sft/sft.json")["held_out"]
    assert held_out["after"]["loss"] > held_out["before"]["loss"]


def test_sft_of_changed_demonstrations_is_refused(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path
) -> None:
    asked = request(rows(24), starter_directory)
    rows(25)
    with pytest.raises(StageFailed, match="changed while the training was being prepared"):
        run_stage("sft", asked, tmp_path)


def test_sft_that_saves_other_weights_than_it_trained_is_not_published(
    rows: Callable[..., str], starter_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stage, "full_weights", lambda engine: {name: value * 1.5 for name, value in engine.module.state_dict().items()}
    )
    with pytest.raises(StageFailed, match="saved weights score pairs differently"):
        run_stage("sft", request(rows(24), starter_directory), tmp_path)
    assert not (tmp_path / "sft").exists()
