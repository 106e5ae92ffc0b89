"""Rounds that learn from thumbs, through the real flows."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.artifacts import read_json, read_table
from components.builtin.world import train_prompts
from components.campaign.state import known_state
from components.config import CampaignConfig
from components.feedback.store import STORE, FeedbackStore
from components.records import StageFailed
from flows.cli import app
from tests.feedback.thumbs import keep

pytestmark = pytest.mark.usefixtures("prefect_session")
Make = Callable[..., CampaignConfig]
WORDS = ["We", "apologise", "for", "the", "trouble", ".", "We", "will", "email", "a", "return", "label", "."]


def config_of(make_config: Make, use: str, **changes: Any) -> CampaignConfig:
    return make_config(
        preferences={"pairs": "unpaired", "feedback": {"use": use, "min_rows": 8}},
        training={"loss": "kto", "learning_rate": 3e-4, "pairs_per_step": 8},
        **changes,
    )


def start(config: CampaignConfig) -> Any:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, return_state=True)


def rate(runs: Path, numbers: range) -> list[str]:
    """Keep a thumb on an answer to a prompt of its own for each number."""
    store, prompts = FeedbackStore(runs / "small" / STORE), train_prompts()
    return [
        keep(
            store,
            number,
            messages=prompts[number],
            response=" ".join(WORDS[: 2 + number % 8]),
            thumb="down" if number % 2 else "up",
            **({"correction": "I am sorry ."} if number % 5 == 0 else {}),
        )
        for number in numbers
    ]


def taken(runs: Path, round: int) -> list[str]:
    return list(read_table(runs / "small" / f"round-{round:03d}" / "take_feedback" / "thumbs.parquet")["row_id"])


def test_feedback_campaign_without_thumbs_is_skipped_and_can_be_served(runs: Path, make_config: Make) -> None:
    config = config_of(make_config, "only")
    for _ in range(2):
        state = start(config)
        assert (state.type.value, state.name) == ("COMPLETED", "Skipped")
        assert state.message == (
            "round 1 of small is not begun: 0 usable thumbs are unused, fewer than preferences.feedback.min_rows = 8"
        )
    known = known_state("small")
    assert (known.target, known.champion.round, known.rounds) == (None, 0, ())
    assert not (runs / "small" / "round-001").exists()


def test_feedback_campaign_trains_on_each_thumb_once_also_after_a_crash(
    runs: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(make_config, "only", num_rounds=2)
    start(config)
    rows = rate(runs, range(12))
    from components.evaluation import stage

    whole = stage.run
    monkeypatch.setattr(stage, "run", lambda request, out: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(StageFailed):
        start(config).result()
    monkeypatch.setattr(stage, "run", whole)
    later = rate(runs, range(12, 24))
    trained = runs / "small/round-001/dpo_train/MANIFEST.json"
    before = trained.stat().st_mtime_ns
    state = start(config).result()
    assert taken(runs, 1) == rows
    assert trained.stat().st_mtime_ns == before, "the round that goes on must train on the same rows"
    assert taken(runs, 2) == later
    assert [record["round"] for record in state["rounds"]] == [1, 2]
    assert not (runs / "small/round-001/generate_responses").exists()
    collected = read_json(runs / "small/round-001/collect_preferences/collect.json")
    assert collected["feedback"]["rows"] == collected["pairs"] == 12
    assert start(config).name == "Skipped"
    assert known_state("small").target is None


def test_feedback_campaign_ends_a_start_of_several_rounds_when_thumbs_run_out(runs: Path, make_config: Make) -> None:
    config = config_of(make_config, "only", num_rounds=3)
    start(config)
    rate(runs, range(10))
    state = start(config).result()
    assert [record["round"] for record in state["rounds"]] == [1]
    assert state["target"] is None
    assert (runs / "small" / "report.html").exists()


def test_feedback_is_added_to_a_judged_round(runs: Path, make_config: Make) -> None:
    config = config_of(make_config, "with_round")
    start(config)
    assert taken(runs, 1) == []
    rows = rate(runs, range(10))
    start(config)
    assert taken(runs, 2) == rows
    pairs = read_table(runs / "small/round-002/collect_preferences/preferences.parquet")
    of_users = pairs[pairs["judge"] == "users"]
    assert sorted(name for names in of_users["verdict_ids"] for name in names) == sorted(rows)
    assert of_users["chosen_ids"].isna().all()
    judged = pairs[pairs["judge"] != "users"]
    assert len(judged) > 0
    assert judged["chosen_ids"].notna().any()
    counts = read_json(runs / "small/round-002/collect_preferences/collect.json")
    assert counts["pairs"] == len(pairs)
    assert counts["feedback"]["rows"] == len(of_users)


def test_feedback_of_an_earlier_round_that_is_gone_is_not_trained_on_again(runs: Path, make_config: Make) -> None:
    config = config_of(make_config, "only")
    start(config)
    rate(runs, range(10))
    start(config)
    here = runs / "small" / "round-001" / "take_feedback"
    (here / "thumbs.parquet").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"take_feedback is gone or has changed, and says which thumbs the round took"):
        start(config).result()
    shutil.rmtree(here)
    with pytest.raises(ValueError, match="restore it, since later rounds would train on them again"):
        start(config).result()


def dry_run(place: Path, config: CampaignConfig) -> Any:
    path = place / "campaign.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    return CliRunner().invoke(app, ["run", str(path), "--dry-run"])


def test_dry_run_says_how_many_thumbs_lie_ready_and_ends_without_any(
    runs: Path, tmp_path: Path, make_config: Make
) -> None:
    config = config_of(make_config, "only")
    for _ in range(2):
        result = dry_run(tmp_path, config)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == (
            "ratchet: skipped: round 1 of small would not begin: 0 usable thumbs are unused, fewer than "
            "preferences.feedback.min_rows = 8\n"
        )
        start(config)
    rate(runs, range(11))
    store = FeedbackStore(runs / "small" / STORE)
    keep(store, 50, response="Write to bob@acme-widgets.com")
    keep(store, 51, origin=None)
    before = store.path.read_bytes()
    result = dry_run(tmp_path, config)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "prompts  1,536 to train on (this round's data is the thumbs of users), 512 held out (48 evaluated)" in lines
    # Of 0 to 10 each fifth is a correction; of the others the even ones are up.
    assert "thumbs   11 lie ready (4 up, 4 down, 3 corrections); 1 set aside; 1 not usable" in lines
    (pairs,) = (line for line in lines if line.startswith("pairs "))
    assert re.search(r"\(\d+ in the thumbs\)$", pairs), pairs
    assert "data set" not in result.stdout
    assert store.path.read_bytes() == before
    assert not (runs / "small" / "round-001").exists()


def test_dry_run_of_a_judged_round_says_what_thumbs_come_beside(runs: Path, tmp_path: Path, make_config: Make) -> None:
    config = config_of(make_config, "with_round")
    result = dry_run(tmp_path, config)
    assert (
        "thumbs   0 usable thumbs are unused, fewer than preferences.feedback.min_rows = 8: the round takes none"
    ) in result.stdout.splitlines()
    start(config)
    rate(runs, range(10))
    lines = dry_run(tmp_path, config).stdout.splitlines()
    assert "thumbs   10 lie ready (4 up, 4 down, 2 corrections), beside the pairs below" in lines
