"""Campaigns whose judges and rules are functions of a user's file, from the prompts' columns to the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.artifacts import read_json, read_table
from components.builtin.world import held_out_prompts, train_prompts
from components.config import CampaignConfig
from components.data.columns import columns_of_table
from flows.cli import app

Make = Callable[..., CampaignConfig]
TWO_LINES = "def score(prompt, response):\n    return -len(response)\n"
SEVERAL = """
import helper

def words(response, words):
    return helper.distance(response, words)

def polite(completions, topic, **kwargs):
    return [None if t == "b" else float("sorry" in c[0]["content"]) for c, t in zip(completions, topic)]

def shouts(response, words):
    return min(1.0, response.count(".") / words)
"""
HELPER = "def distance(response, words):\n    return -abs(len(response.split()) - words)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's directory, with prompts that have columns."""
    monkeypatch.chdir(tmp_path)
    for name, prompts in (("train", train_prompts()[:24]), ("held", held_out_prompts()[:24])):
        rows = [{"prompt": each, "words": 6 + n, "topic": "ab"[n % 2]} for n, each in enumerate(prompts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.usefixtures("prefect_session")
def test_a_campaign_by_several_functions_and_a_rule_of_the_users(here: Path, runs: Path, make_config: Make) -> None:
    from flows.iterative_dpo import iterative_dpo

    (here / "my_rewards.py").write_text(SEVERAL)
    (here / "helper.py").write_text(HELPER)
    functions = [{"function": "my_rewards.py:words"}, {"function": "my_rewards.py:polite", "weight": 3}]
    config = make_config(
        prompts={"train": "train.jsonl", "held_out": "held.jsonl", "per_round": 12, "num_held_out": 12},
        judge={"kind": "python", "functions": functions, "memory_limit_gb": 1},
        constraints={"function": "./my_rewards.py:shouts", "memory_limit_gb": 1},
    )
    iterative_dpo(config)
    round_1 = runs / "small" / "round-001"
    verdicts = read_table(round_1 / "collect_preferences/verdicts.parquet")
    responses = read_table(round_1 / "generate_responses/responses.parquet")
    prompts = read_table(round_1 / "generate_responses/prompts.parquet")
    columns = dict(zip(prompts["prompt_id"], columns_of_table(prompts), strict=True))
    texts = {(row.prompt_id, row.sample_id): row.text for row in responses.itertuples()}
    concluded = verdicts[verdicts["part"] == ""]
    assert len(concluded) == 48
    for row in concluded.itertuples():
        text, own = texts[row.prompt_id, row.sample_id], columns[row.prompt_id]
        polite = 3 * ("sorry" in text) if own["topic"] == "a" else 0
        assert row.score == polite - abs(len(text.split()) - own["words"])
    counts = read_json(round_1 / "collect_preferences/collect.json")["functions"]
    assert counts["my_rewards.words"]["scored"] == 48
    assert counts["my_rewards.polite"]["scored"] + counts["my_rewards.polite"]["not_applicable"] == 48
    evaluated = read_json(round_1 / "evaluate/evaluation.json")
    assert set(evaluated["functions"]) == {"my_rewards.words", "my_rewards.polite"}
    assert 0 < evaluated["violations"]["function"]["challenger"] < 1
    steps = [json.loads(line) for line in (round_1 / "dpo_train/metrics.jsonl").read_text().splitlines()]
    assert all(0 < step["constraints/function/violation"] < 1 for step in steps)
    report = (runs / "small" / "report.html").read_text()
    assert "my_rewards.polite" in report
    assert "does not apply" in report
    # What lies beside the file is part of the judge.
    (here / "helper.py").write_text(HELPER + "\n# changed\n")
    with pytest.raises(ValueError, match=r"judge python:my_rewards.py:words, .*: another content.*--accept-changes"):
        iterative_dpo(config)


@pytest.mark.usefixtures("prefect_session")
def test_a_campaign_by_two_lines_on_the_builtin_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path, make_config: Make
) -> None:
    from flows.iterative_dpo import iterative_dpo

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text(TWO_LINES)
    trl = {"kind": "python", "function": "trl.rewards:think_format_reward"}
    mixed = {"kind": "jury", "jurors": [trl, {"kind": "python", "function": "my_rewards.py:score"}]}
    iterative_dpo(make_config(judge={"kind": "python", "function": "my_rewards.py:score"}, evaluation_judge=mixed))
    pairs = read_table(runs / "small/round-001/collect_preferences/preferences.parquet")
    assert (pairs["chosen"].str.len() < pairs["rejected"].str.len()).all()
    assert "columns" not in pairs
    assert set(pairs["judge"]) == {"python:my_rewards.score"}
    health: dict[str, Any] = read_json(runs / "small/round-001/evaluate/evaluation.json")["judge_health"]
    assert set(health["parts"]) == {"python:rewards.think_format_reward", "python:my_rewards.score"}


def test_collect_and_calibrate_hand_the_columns_to_the_function(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    exact = {"kind": "python", "function": "components.functions.library.exact_answer:score"}
    (here / "c.yaml").write_text(json.dumps({"campaign": "c", "judge": exact}))
    answers = [{"prompt": f"{n} + {n}?", "responses": [str(2 * n), "7"], "answer": 2 * n} for n in range(4)]
    labelled = [{"prompt": f"{n} + {n}?", "chosen": f"{2 * n}", "rejected": "7", "answer": 2 * n} for n in range(4)]
    for name, rows in (("answers", answers), ("labelled", labelled)):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ratchet(command: str, source: str, out: str) -> Any:
        return CliRunner().invoke(app, [command, source, "--config", "c.yaml", "--out", out])

    told = ratchet("collect", "answers.jsonl", "judged")
    assert told.exit_code == 0, told.output
    assert read_table(Path("judged/preferences.parquet"))["chosen"].tolist() == ["0", "2", "4", "6"]
    assert columns_of_table(read_table(Path("judged/prompts.parquet")))[3] == {"answer": 6}
    told = ratchet("calibrate", "labelled.jsonl", "calibrated")
    assert told.exit_code == 0, told.output
    assert read_json(Path("calibrated/calibration.json"))["quality"]["accuracy"]["value"] == 1.0
    # Another answer is another question, though prompts and responses are the same.
    answers[0]["answer"] = 7
    (here / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    assert ratchet("collect", "answers.jsonl", "judged").exit_code == 0
    assert read_table(Path("judged/preferences.parquet"))["chosen"].tolist() == ["7", "2", "4", "6"]
