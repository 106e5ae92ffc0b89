"""Campaigns that learn from demonstrations, through the real flow: SPIN, DITTO, convergence, the inferred reward."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from components.artifacts import read_json
from components.builtin.world import corpus, held_out_prompts, support_reply
from components.config import CampaignConfig
from components.data.demonstrated_answers import REPEATED
from components.data.demonstrations import EMPTY_TURN, HELD_OUT
from components.data.messages import Messages
from components.models.tokens import OTHER_TEXT
from components.start.demonstrations import LONG_ANSWER, LONG_PROMPT
from flows.cli import app
from tests.flows.test_campaign_flow import start

pytestmark = pytest.mark.usefixtures("prefect_session")
Make = Callable[..., CampaignConfig]


def good_replies() -> list[tuple[Messages, str]]:
    replies: defaultdict[str, list[tuple[float, Messages, str]]] = defaultdict(list)
    for messages, reply in corpus():
        replies[messages[0]["content"]].append((support_reply(messages, reply), messages, reply))
    best = [max(scored, key=lambda each: each[0]) for scored in replies.values()]
    # Short enough for the limit of the small campaign.
    return [(messages, reply) for score, messages, reply in best if score > 4 and len(reply.split()) < 26]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(number: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": reply} for prompt, reply in good_replies()[first : first + number]]


def of(source: str, pairs: str = "spin") -> dict[str, Any]:
    return {"pairs": pairs, "demonstrations": source}


def table(runs: Path, place: str) -> pd.DataFrame:
    return pd.read_parquet(runs / "small" / place)


def test_spin_runs_two_rounds_on_the_demonstrations_prompts(runs: Path, make_config: Make, tmp_path: Path) -> None:
    prompt, reply = good_replies()[40]
    greeting = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Thank you for writing to us."}]
    strange = [
        {"messages": [{"role": "system", "content": "Be kind."}, *prompt, {"role": "assistant", "content": reply}]},
        {"messages": [*greeting, *prompt, {"role": "assistant", "content": reply}]},
        {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am sorry."}]},
        {"messages": [*prompt, {"role": "assistant", "content": ""}]},
        {"messages": [*prompt, {"role": "assistant", "content": "Sorry 🙂"}]},
        {"messages": [*prompt, {"role": "assistant", "content": f"{reply} {reply} {reply}"}]},
        {"messages": [{"role": "user", "content": "order " * 70}, {"role": "assistant", "content": reply}]},
        {"messages": [*held_out_prompts()[0], {"role": "assistant", "content": reply}]},
    ]
    as_messages = [
        {"messages": [*row["prompt"], {"role": "assistant", "content": row["completion"]}]} for row in rows(20)
    ]
    source = write(tmp_path / "d.jsonl", [*as_messages, as_messages[0], *strange])
    state = start(make_config(num_rounds=2, preferences=of(source)))
    assert [record["round"] for record in state["rounds"]] == [1, 2]
    pinned = read_json(runs / "small/round-000/start/start.json")["demonstrations"]
    left_out = {REPEATED: 1, EMPTY_TURN: 1, LONG_ANSWER: 1, LONG_PROMPT: 1, HELD_OUT: 1, OTHER_TEXT: 1}
    assert pinned["left_out"] == left_out
    # One with a system message, one at the first and one at the second turn, and one for an unknown prompt.
    assert (pinned["answers"], pinned["prompts"]) == (24, 24)
    asked = set(table(runs, "round-000/start/demonstration_prompts.parquet")["prompt_id"])
    drawn = table(runs, "round-001/generate_responses/prompts.parquet")
    assert set(drawn["prompt_id"]) == asked
    pairs = table(runs, "round-001/collect_preferences/preferences.parquet")
    shown = table(runs, "round-000/start/demonstrations.parquet")
    assert set(pairs["chosen"]) <= set(shown["answer"])
    assert pairs["chosen_ids"].isna().all()
    assert pairs["rejected_ids"].notna().all()
    for round in (1, 2):
        trained = read_json(runs / f"small/round-00{round}/dpo_train/train.json")
        assert trained["start_digest"] == trained["reference_digest"]
        assert trained["ln2_checked"]
        counts = read_json(runs / f"small/round-00{round}/collect_preferences/collect.json")
        assert counts["verdicts"] == 0
        assert counts["demonstrations"]["answers"] == 96
    told = CliRunner().invoke(app, ["status", "small"])
    assert "rounds learn from 24 demonstrations for 24 prompts; left out: 1 x" in told.stdout
    assert "rounds learn from 24 demonstrations" in (runs / "small/report.html").read_text()

    changed = write(tmp_path / "d.jsonl", rows(12))
    with pytest.raises(ValueError, match=r"demonstrations .*d\.jsonl: another content.*--accept-changes"):
        start(make_config(preferences=of(changed)))
    state = start(make_config(preferences=of(changed)), accept_changes=True)
    assert [record["round"] for record in state["rounds"]] == [1, 2, 3]
    assert read_json(runs / "small/round-000/start/start.json")["demonstrations"]["answers"] == 12


def test_round_ends_without_an_error_when_the_policy_answers_as_the_demonstrations_do(
    runs: Path, make_config: Make, tmp_path: Path
) -> None:
    greedy = {"samples_per_prompt": 2, "batch_size": 48, "top_k": 1}
    source = write(tmp_path / "d.jsonl", rows(16))
    start(make_config(generation=greedy, preferences=of(source), campaign="first"))
    here = runs / "first/round-001/generate_responses"
    asked = pd.read_parquet(here / "prompts.parquet", columns=["prompt_id", "messages"])
    answered = pd.read_parquet(here / "responses.parquet").merge(asked, on="prompt_id")
    own = [
        {"prompt": json.loads(messages), "completion": text}
        for messages, text in zip(answered["messages"], answered["text"], strict=True)
        if text.strip()
    ]
    config = make_config(
        num_rounds=3, generation=greedy, preferences=of(write(tmp_path / "own.jsonl", own)), validation={"min_pairs": 8}
    )
    for _ in range(2):
        state = start(config)
        assert state["rounds"] == []
        assert state["target"] is None
    assert not (runs / "small/round-001/validate_data").exists()
    assert len(table(runs, "round-001/collect_preferences/preferences.parquet")) == 0
    told = CliRunner().invoke(app, ["status", "small"])
    assert told.exit_code == 0
    assert "round 1 is not trained: the policy answers as the demonstrations do" in told.stdout
    assert "nothing is wrong" in (runs / "small/report.html").read_text()

    more = make_config(
        generation=greedy,
        preferences=of(write(tmp_path / "own.jsonl", [*own, *rows(16, first=16)])),
        validation={"min_pairs": 8},
    )
    state = start(more, accept_changes=True)
    assert [record["round"] for record in state["rounds"]] == [1]


def test_ditto_learns_from_earlier_rounds_and_its_reward_judges_anywhere(
    runs: Path, make_config: Make, tmp_path: Path
) -> None:
    source = write(tmp_path / "few.jsonl", rows(8))
    config = make_config(
        num_rounds=2,
        reference="start",
        generation={"samples_per_prompt": 8, "batch_size": 48},
        preferences=of(source, "ditto"),
        validation={"min_pairs": 1, "eval_share": 0.0},
        gate={"max_unfinished_increase": 1.0, "false_promotion_rate": 0.5, "min_win_rate_vs_start": 0.0},
    )
    state = start(config)
    start_digest = read_json(runs / "small/round-000/start/start.json")["model"]["digest"]
    counts = [
        read_json(runs / f"small/round-00{round}/collect_preferences/collect.json")["demonstrations"]["pairs"]
        for round in (1, 2)
    ]
    assert counts[0] == {"current": counts[0]["current"], "replay": 0, "later": 0}
    assert counts[1]["replay"] == round(counts[1]["current"] / 0.7 * 0.2)
    assert (counts[1]["later"] > 0) == state["rounds"][0]["promoted"]
    assert read_json(runs / "small/round-002/dpo_train/train.json")["reference_digest"] == start_digest
    pairs = table(runs, "round-002/collect_preferences/preferences.parquet")
    assert pairs["rejected_ids"].notna().all()
    assert table(runs, "round-002/validate_data/quarantine.parquet")["reason"].str.contains("contradicts").sum() == 0

    unseen = write(tmp_path / "unseen.jsonl", rows(24, first=4))
    command = ["infer-reward", "small", "--round", "2", "--demonstrations", unseen, "--samples", "2"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert "on 20 prompts that no round trained on" in told.stdout
    assert "left out: 4 x a round trained on its prompt" in told.stdout
    saved = runs / "small/rewards/round-002/inferred_reward"
    result = read_json(saved / "inferred_reward.json")
    assert result["held_out"]["reward"]["accuracy"]["n"] == result["held_out"]["compared_prompts"] <= 20
    assert result["held_out"]["reward"]["accuracy"]["value"] > 0.5
    judge = {"kind": "inferred_reward", "model": str(saved)}
    state = start(make_config(campaign="other", judge=judge, evaluation_judge={"kind": "rule"}))
    verdicts = pd.read_parquet(runs / "other/round-001/collect_preferences/verdicts.parquet")
    assert set(verdicts["judge"]) == {"inferred_reward:inferred_reward"}
    assert (verdicts["status"] == "ok").mean() > 0.95
    assert "inferred_reward/accuracy" in logged(runs, "small", 2)


def logged(runs: Path, campaign: str, round: int) -> set[str]:
    from components.campaign.state import known_state
    from components.tracking.store import connected

    run_id = next(record.mlflow_run_id for record in known_state(campaign).rounds if record.round == round)
    assert run_id is not None
    with connected(runs) as client:
        return set(client.get_run(run_id).data.metrics)


def test_infer_reward_says_what_it_lacks(runs: Path, make_config: Make, tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", rows(8))
    validation = {"min_pairs": 1, "eval_share": 0.0}
    training = {"learning_rate": 1e-7, "pairs_per_step": 8}
    start(make_config(preferences=of(source), training=training, validation=validation))
    told = CliRunner().invoke(app, ["infer-reward", "small"])
    assert told.exit_code == 2
    assert "is still its start model, from which no reward can be inferred" in told.output
    told = CliRunner().invoke(app, ["infer-reward", "small", "--round", "4"])
    assert told.exit_code == 2
    assert "round 4 of small is not finished" in told.output
    told = CliRunner().invoke(app, ["infer-reward", "small", "--round", "1", "--demonstrations", source])
    assert told.exit_code == 2
    assert "8 x a round trained on its prompt" in told.output
    told = CliRunner().invoke(app, ["infer-reward", "small", "--round", "1"])
    assert told.exit_code == 0, told.output
    assert "not measured: no demonstration of the campaign answers a held-out prompt" in told.output


def test_dry_run_builds_its_pairs_from_demonstrations_and_asks_no_judge_about_them(
    runs: Path, make_config: Make, tmp_path: Path
) -> None:
    from flows.dry_run import dry_run

    tried = dry_run(make_config(preferences=of(write(tmp_path / "d.jsonl", rows(10)))))
    assert tried.plan.sizes.round_prompts == tried.plan.sizes.train_prompts == 10
    assert "if the judge decides" not in tried.plan.pairs_basis
    assert not (runs / "small").exists()
