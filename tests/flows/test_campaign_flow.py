"""Whole campaigns through the real flows, stages, Prefect server and MLflow store."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import read_json, read_table, write_table
from components.builtin.world import corpus, support_reply, train_prompts
from components.campaign.lock import locked
from components.campaign.state import known_state
from components.config import CampaignConfig
from components.records import DataRejected, StageFailed

pytestmark = pytest.mark.usefixtures("prefect_session")
Make = Callable[..., CampaignConfig]
STAGES = ["generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote"]


def start(config: CampaignConfig, **options: Any) -> dict[str, Any]:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, **options)


def manifest_times(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.glob("round-*/*/MANIFEST.json")
    }


def test_campaign_two_starts_add_rounds_and_leave_a_whole_trail(runs: Path, make_config: Make) -> None:
    state = start(make_config())
    assert [record["round"] for record in state["rounds"]] == [1]
    before = manifest_times(runs / "small")
    state = start(make_config(num_rounds=1))
    assert [record["round"] for record in state["rounds"]] == [1, 2]
    assert state["target"] is None
    after = manifest_times(runs / "small")
    assert {name: after[name] for name in before} == before
    record = state["rounds"][0]
    assert 0 < record["distinct_2"] < 1
    assert 0 <= record["equal_samples"] < 1
    assert list(record["seconds"]) == STAGES
    assert record["win_rate_vs_start"]["n"] == 48
    assert record["mlflow_run_id"]
    drawn = [
        set(read_table(runs / f"small/round-00{round}/generate_responses/prompts.parquet")["prompt_id"])
        for round in (1, 2)
    ]
    assert len(drawn[0]) == len(drawn[1]) == 24
    assert not drawn[0] & drawn[1]
    held_out = set(read_table(runs / "small/round-000/start/held_out_prompts.parquet")["prompt_id"])
    assert not held_out & (drawn[0] | drawn[1])
    assert (runs / "small" / "report.html").exists()
    for stage in STAGES:
        manifest = read_json(runs / "small/round-002" / stage / "MANIFEST.json")
        assert manifest["seconds"] > 0
        assert manifest["peak_memory_bytes"] > 2**20


def test_campaign_model_loads_back_from_mlflow_and_generates(
    runs: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from components.tracking import tracking_uri

    start(make_config())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(runs))
    path = mlflow.artifacts.download_artifacts("models:/small@challenger")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "my kettle leaks"}], add_generation_prompt=True, return_tensors="pt"
    )
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1]


def test_campaign_stage_that_fails_is_gone_on_with_from_there(
    runs: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.evaluation import stage

    whole = stage.run
    monkeypatch.setattr(stage, "run", lambda request, out: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(StageFailed, match="evaluate failed: OSError: no space left"):
        start(make_config(num_rounds=2))
    assert known_state("small").target == 2
    before = manifest_times(runs / "small")
    monkeypatch.setattr(stage, "run", whole)
    state = start(make_config(num_rounds=2))
    assert [record["round"] for record in state["rounds"]] == [1, 2]
    after = manifest_times(runs / "small")
    assert {name: after[name] for name in before} == before
    assert len(start(make_config(num_rounds=1))["rounds"]) == 3


def test_campaign_whose_end_fails_behind_the_last_round_adds_none_when_it_is_started_again(
    runs: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the report: a job that is started until it ends well trained further rounds."""
    from tasks import show_campaign as task

    def full(directory: Path) -> Path:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(task, "write_report", full)
        with pytest.raises(OSError, match="no space left"):
            start(make_config())
    assert known_state("small").target == 1
    published = manifest_times(runs / "small")
    for _ in range(2):
        state = start(make_config(), until=1)
        assert (state["target"], [record["round"] for record in state["rounds"]]) == (None, [1])
    assert manifest_times(runs / "small") == published
    # Nothing is left to do, so inputs that are gone do not matter.
    (runs / "small" / "round-000" / "start" / "train_prompts.parquet").unlink()
    assert start(make_config(prompts={"train": "/gone.jsonl", "held_out": ""}), until=1)["target"] is None


def test_campaign_worse_challenger_is_refused_and_the_next_round_starts_from_the_champion(
    runs: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.validation import stage

    whole = stage.run

    def flipped(request: Any, out: Path) -> None:
        whole(request, out)
        table = pd.read_parquet(out / "train.parquet")
        # Training reads the tokens, not the texts.
        swapped = {"chosen_ids": "rejected_ids", "rejected_ids": "chosen_ids"}
        write_table(out / "train.parquet", table.rename(columns=swapped)[table.columns])

    monkeypatch.setattr(stage, "run", flipped)
    settings = {"learning_rate": 2e-3, "epochs": 4, "pairs_per_step": 8, "micro_batch_pairs": 8}
    state = start(make_config(training=settings))
    record = state["rounds"][0]
    assert not record["promoted"]
    assert record["win_rate_vs_champion"]["value"] < 0.5
    assert state["champion"]["round"] == 0
    monkeypatch.setattr(stage, "run", whole)
    start(make_config(training=settings))
    trained = read_json(runs / "small/round-002/dpo_train/train.json")
    assert trained["start_digest"] == state["champion"]["digest"] != record["policy_digest"]
    assert trained["ln2_checked"]


def test_campaign_held_by_another_run_is_skipped_and_names_the_holder(runs: Path, make_config: Make) -> None:
    from flows.iterative_dpo import SKIPPED, iterative_dpo

    with locked(runs / "small", flow_run="the-other-one"):
        state: Any = iterative_dpo(make_config(), return_state=True)
    assert state.name == SKIPPED
    assert state.is_completed()
    assert "the-other-one" in state.message
    assert not (runs / "small" / "config.json").exists()


def test_campaign_seeded_first_round_trains_on_the_data_set(runs: Path, make_config: Make, tmp_path: Path) -> None:
    rows = []
    replies = corpus()
    for (messages, first), (_, second) in zip(replies[:160:2], replies[1:160:2], strict=True):
        better, worse = sorted((first, second), key=lambda reply: -support_reply(messages, reply))
        rows.append({"prompt": messages[0]["content"], "chosen": better, "rejected": worse})
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = start(make_config(num_rounds=2, preferences={"seed_pairs": str(pairs)}))
    first, second = state["rounds"]
    assert list(first["seconds"]) == STAGES[1:]
    assert list(second["seconds"]) == STAGES
    counts = read_json(runs / "small/round-001/validate_data/validation.json")
    assert counts["received"] == counts["train"] + counts["eval"] + counts["quarantined"] > 60


def test_campaign_solved_prompts_rest_in_the_next_round(runs: Path, make_config: Make, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": messages}) + "\n" for messages in train_prompts()[:38]))
    prompts = {"train": str(path), "held_out": "", "num_held_out": 8, "per_round": 24, "solved_rounds": 1}
    start(make_config(prompts=prompts))
    first, second = (runs / "small" / f"round-{round:03d}" for round in (1, 2))
    outcomes = read_table(first / "collect_preferences" / "prompt_outcomes.parquet").set_index("prompt_id")
    bar = float(outcomes["mean_score"].median())
    start(make_config(prompts=prompts | {"solved_score": bar}), accept_changes=True)
    solved = outcomes.index[(outcomes["outcome"] != "paired") | (outcomes["mean_score"] >= bar)]
    drawn = set(read_table(second / "generate_responses" / "prompts.parquet")["prompt_id"])
    counts = read_json(second / "generate_responses" / "generate.json")
    assert 0 < len(solved) < 24
    assert len(drawn) == 24
    assert counts["solved_drawn"] == len(drawn & set(solved)) == max(0, len(solved) - 6)
    assert counts["solved_left_out"] == min(6, len(solved))


def test_campaign_single_responses_are_trained_on_from_a_data_set_and_from_the_judge(
    runs: Path, make_config: Make, tmp_path: Path
) -> None:
    rows = [
        {"prompt": messages[0]["content"], "completion": reply, "label": support_reply(messages, reply) > 1.0}
        for messages, reply in corpus()[:160]
    ]
    assert 20 < sum(row["label"] for row in rows) < 140
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"loss": "kto", "learning_rate": 3e-4, "pairs_per_step": 16, "micro_batch_pairs": 16}
    start(make_config(num_rounds=2, training=training, preferences={"seed_pairs": str(path), "pairs": "unpaired"}))
    for round in (1, 2):
        train = read_table(runs / f"small/round-00{round}/validate_data/train.parquet")
        desirable = train["rejected"].isna()
        assert (train["chosen"].isna() == ~desirable).all()
        assert 0 < desirable.sum() < len(train)
        assert read_json(runs / f"small/round-00{round}/dpo_train/train.json")["ln2_checked"]
    assert (runs / "small/report.html").exists()


def test_campaign_whose_start_is_nearly_always_cut_says_so_and_can_still_be_improved(
    runs: Path, make_config: Make
) -> None:
    """An absolute limit on cut answers refused every round of such a campaign, hours after it could be known."""
    config = make_config(
        num_rounds=2,
        policy=make_config().policy.model_dump() | {"max_response_tokens": 12},
        prompts={"per_round": 192, "num_held_out": 256},
        training={"learning_rate": 3e-4, "epochs": 2, "pairs_per_step": 16},
        gate={},
    )
    state = start(config)
    measured = read_json(runs / "small/round-000/start/start.json")["measured"]
    assert measured["num_prompts"] == 64
    assert measured["unfinished_share"]["low"] > 0.5
    evaluation = read_json(runs / "small/round-001/evaluate/evaluation.json")
    assert evaluation["unfinished_share"]["challenger"] > 0.5, "the old limit of 0.2 refuses this round"
    assert state["rounds"][0]["promoted"], state["rounds"][0]["reasons"]
    assert "of empty or unfinished responses changes by" in state["rounds"][0]["reasons"][-1]


def test_campaign_with_too_few_pairs_says_which_margin_left_out_the_others(runs: Path, make_config: Make) -> None:
    """The stop is in validation, and the margin in collection: nobody would look for it there."""
    config = make_config(preferences={"min_margin": 2.0}, validation={"min_pairs": 24, "eval_share": 0.0})
    with pytest.raises(DataRejected) as caught:
        start(config)
    told = re.search(
        r"(\d+) of (\d+) pairs are left to train on, fewer than validation.min_pairs = 24: 24 prompts \((.*)\) gave "
        r"(\d+) pairs: lower preferences.min_margin; the rejected rows",
        str(caught.value),
    )
    assert told is not None, str(caught.value)
    count, margin = re.search(
        r"(\d+) x the largest margin of scores, ([\d.]+), is within preferences.min_margin = 2", told[3]
    ).groups()  # type: ignore[union-attr]
    assert 0 < int(count) <= 24 - int(told[2])
    assert 0 < float(margin) <= 2
    verdicts = read_table(runs / "small/round-001/collect_preferences/verdicts.parquet")
    spreads = verdicts.groupby("prompt_id")["score"].agg(lambda scores: scores.max() - scores.min())
    assert float(margin) == pytest.approx(spreads[spreads <= 2].max(), abs=0.005)


def test_campaign_rejected_data_stops_the_round_and_keeps_the_rows(runs: Path, make_config: Make) -> None:
    with pytest.raises(DataRejected, match=r"min_pairs.*rejected rows are in .*rejected-validate_data"):
        start(make_config(validation={"min_pairs": 5000, "max_quarantine_share": 1.0}))
    kept = runs / "small/round-001/rejected-validate_data"
    assert (kept / "quarantine.parquet").exists()
    assert not (runs / "small/round-001/dpo_train").exists()


def test_campaign_lora_rounds_publish_adapters_on_the_start_model(runs: Path, make_config: Make) -> None:
    state = start(
        make_config(
            lora={"rank": 4, "alpha": 8},
            validation={"max_quarantine_share": 0.95, "min_pairs": 1, "replay": 1},
            num_rounds=2,
        )
    )
    for record in state["rounds"]:
        stage = runs / f"small/round-00{record['round']}/dpo_train"
        assert (stage / "adapter/adapter_model.safetensors").exists()
        assert not (stage / "model").exists()
        assert read_json(stage / "train.json")["ln2_checked"]
    assert read_json(runs / "small/round-002/validate_data/validation.json")["replayed"] > 0


def test_campaign_mlflow_away_loses_nothing_and_arrives_later(
    runs: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    state = start(make_config())
    assert state["rounds"][0]["mlflow_run_id"] is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    state = start(make_config())
    assert all(record["mlflow_run_id"] for record in state["rounds"])


def test_dead_flow_run_of_the_campaign_is_marked_crashed(runs: Path, make_config: Make) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.prefect_page.earlier_starts import HOLDER

    @flow
    def abandoned() -> str:
        from prefect.runtime import flow_run

        return str(flow_run.id)

    dead = abandoned()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(dead, Running(), force=True)
        (runs / "small").mkdir(parents=True)
        (runs / "small" / HOLDER).write_text(dead)
        start(make_config())
        assert client.read_flow_run(dead).state_name == "Crashed"


def test_two_campaigns_of_one_process_do_not_disturb_each_other(runs: Path, make_config: Make) -> None:
    first, second = start(make_config(campaign="one")), start(make_config(campaign="two"))
    volatile = {"seconds": None, "mlflow_run_id": None}
    assert first["rounds"][0] | volatile == second["rounds"][0] | volatile
    assert threading.active_count() < 50
