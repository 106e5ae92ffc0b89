"""The terminal's lines on a finished training."""

import re
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.artifacts import write_json
from components.records import JudgeUnavailable
from flows.terminal.console import PlainConsole
from flows.terminal.rounds import StageProgress

REASON = f"LlamaForCausalLM cannot be packed: its attention has [dropout]{' and more' * 12}"


def shown(campaign: Path | None, trained: dict[str, Any] | None, *, stage: str = "dpo_train") -> list[str]:
    if campaign is not None and trained is not None:
        write_json(campaign / "round-001" / "dpo_train" / "train.json", trained)
    console = Console(file=StringIO(), width=60)
    StageProgress(console, campaign).ended("round-001", stage, 304.04, already_done=False)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    (tmp_path / "round-001" / "dpo_train").mkdir(parents=True)
    return tmp_path


def test_padded_training_says_so_and_why_in_one_line(campaign: Path) -> None:
    """Somebody who waits four times as long would else never know: components' logs do not reach the terminal."""
    lines = shown(campaign, {"scoring": {"packed": False, "reason": REASON}})
    assert lines == [
        "round-001  dpo_train             304.0 s",
        f"           in padded rows, which takes more time and memory than packed ones: {REASON}",
    ]


def test_training_that_stopped_early_or_published_an_earlier_step_says_so(campaign: Path) -> None:
    why = "eval/loss was best behind step 2"
    steps = {"num_steps": 4, "planned_steps": 6, "published_step": 2, "stopped_early": why}
    assert shown(campaign, steps)[1:] == [
        f"           stopped early, after 4 of 6 steps: {why}",
        "           published are the weights behind step 2 of 4, the best evaluation",
    ]
    whole = {"num_steps": 6, "planned_steps": 6, "published_step": 6, "stopped_early": None}
    assert shown(campaign, whole)[1:] == shown(campaign, {"num_steps": 6})[1:] == []


def test_training_that_learned_nothing_says_so_with_the_remedy(campaign: Path) -> None:
    cause = "nothing was learned: after 7 steps the margins have grown by 0.0010: try ten times as much"
    lines = shown(campaign, {"scoring": {"packed": True, "reason": None}, "diagnosis": [cause]})
    assert lines == ["round-001  dpo_train             304.0 s", f"           {cause}"]


@pytest.mark.parametrize(
    "trained",
    [{"scoring": {"packed": True, "reason": None}}, {"num_pairs": 3}],
    ids=["packed", "of an earlier version"],
)
def test_packed_training_and_one_that_does_not_say_have_no_line(trained: dict[str, Any], campaign: Path) -> None:
    assert shown(campaign, trained) == ["round-001  dpo_train             304.0 s"]


def test_slower_sampling_says_so_and_why(campaign: Path) -> None:
    (campaign / "round-001" / "generate_responses").mkdir()
    sampling = {"way": "one response at a time", "reason": "RwkvForCausalLM does not take position ids"}
    write_json(campaign / "round-001" / "generate_responses" / "generate.json", {"sampling": sampling})
    assert shown(campaign, None, stage="generate_responses")[1:] == [
        "           by a slower way (one response at a time): RwkvForCausalLM does not take position ids"
    ]


def test_other_stages_and_what_is_no_round_have_no_line(campaign: Path) -> None:
    assert shown(campaign, None, stage="evaluate") == ["round-001  evaluate              304.0 s"]
    assert shown(None, None) == ["round-001  dpo_train             304.0 s"]


def test_stage_that_reports_nothing_prints_its_lines_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that waited for a report of the stage would leave a download of an hour silent."""
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "0.05")
    console = Console(file=StringIO(), width=20)
    with StageProgress(console) as display:
        display.began("rewards", "reward_model")
        time.sleep(0.3)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert 2 <= len(lines) <= 6
    assert re.fullmatch(r"rewards  reward_model {10}\d+ s so far, memory \d+\.\d GiB", lines[0])


@pytest.mark.parametrize("is_terminal", [True, False])
def test_judges_error_text_in_the_bar_is_text_and_hides_no_error(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`[/v1/chat]` was taken for markup: leaving the display raised MarkupError in place of the judge's error."""
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "0.05")
    console = PlainConsole(file=StringIO(), force_terminal=is_terminal, width=200)
    said = "the endpoint answered 500 ([/v1/chat] is down\x1b[2J\r\nround-009  promote  done)"

    def fail() -> None:
        with StageProgress(console) as display:
            display.began("round-001", "collect_preferences")
            display.advanced(1, 9, said)
            time.sleep(0.3)
            raise JudgeUnavailable(said)

    with pytest.raises(JudgeUnavailable, match="is down"):
        fail()
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/v1/chat] is down" in output
    assert "\x1b[2J" not in output
    assert not any(line.startswith("round-009") for line in output.splitlines())


def test_terminal_with_a_bar_has_no_such_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "0.05")
    console = Console(file=StringIO(), force_terminal=True)
    with StageProgress(console) as display:
        display.began("rewards", "reward_model")
        time.sleep(0.2)
    assert "memory" not in console.file.getvalue()  # type: ignore[attr-defined]


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": 64}


@pytest.mark.parametrize(
    ("gate", "refusing"),
    [({"max_unfinished_share": 1.0}, False), ({"max_unfinished_share": 0.2}, True)],
    ids=["relative", "absolute"],
)
def test_start_that_is_mostly_cut_says_so_with_the_remedy(
    gate: dict[str, float], refusing: bool, tmp_path: Path
) -> None:
    measured = {
        "unfinished_share": interval(0.703125, 0.576, 0.811),
        "empty_share": interval(0.0, 0.0, 0.056),
        "max_response_tokens": 128,
        "mean_tokens": 112.25,
        "tokens_per_second": 95.4,
    }
    lines = start_lines(tmp_path, {"measured": measured}, gate)
    assert lines[:2] == [
        "70.3 % of the start model's answers are cut at policy.max_response_tokens = 128 (57.6 % to 81.1 %) and 0.0 % "
        "are empty, on 64 held-out prompts; 112.2 tokens an answer, 95 tokens/s",
        "70.3 % of the start model's answers are cut: raise policy.max_response_tokens = 128; cut answers are judged, "
        "and trained on, without their end",
    ]
    assert (len(lines) == 3) == refusing
    assert not refusing or lines[2].startswith("gate.max_unfinished_share = 0.2 refuses every round that answers as")


def test_start_of_an_earlier_version_says_nothing_of_its_answers(tmp_path: Path) -> None:
    assert start_lines(tmp_path, {"stop_tokens": {"<|end|>": 3}}, {}) == ["answers end at <|end|> (3)"]


def start_lines(campaign: Path, start: dict[str, Any], gate: dict[str, float]) -> list[str]:
    (campaign / "round-000" / "start").mkdir(parents=True)
    write_json(campaign / "round-000" / "start" / "start.json", start)
    write_json(campaign / "config.json", {"gate": gate})
    console = Console(file=StringIO(), width=60)
    StageProgress(console, campaign).ended("round-000", "start", 4.0, already_done=False)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.strip() for line in lines[1:]]


def test_start_says_which_training_prompts_give_held_out_ones_away(tmp_path: Path) -> None:
    start = {"num_train_prompts": 40, "dropped_conversations": 3, "near_held_out": 2}
    assert " ".join(start_lines(tmp_path, start, {})) == (
        "3 training prompts are left out: they begin or continue a held-out conversation "
        "2 of 40 training prompts are nearly the same as a held-out one"
    )


@pytest.mark.parametrize("checks", [None, [], [{"name": "form", "verdict": "pass"}]])
def test_validation_within_its_limits_says_nothing(checks: list[dict[str, Any]] | None, campaign: Path) -> None:
    assert validation_lines(campaign, checks) == []


def test_validation_says_which_data_checks_are_above_their_limits(campaign: Path) -> None:
    verdicts = {"form": "pass", "length_bias": "warn", "secrets": "fail", "tag_balance": "skipped"}
    checks = [{"name": name, "verdict": verdict} for name, verdict in verdicts.items()]
    line = "data checks: 1 warn, 1 fail: secrets, length_bias (see the report)"
    assert validation_lines(campaign, checks) == [line]


def validation_lines(campaign: Path, checks: list[dict[str, Any]] | None) -> list[str]:
    stage = campaign / "round-001" / "validate_data"
    stage.mkdir(parents=True, exist_ok=True)
    write_json(stage / "validation.json", {} if checks is None else {"checks": checks})
    console = Console(file=StringIO(), width=200)
    StageProgress(console, campaign).ended("round-001", "validate_data", 1.0, already_done=False)
    return [line.strip() for line in console.file.getvalue().splitlines()[1:]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("all_equal", "collapsed"), [(0.501, True), (0.5, False), (None, False)])
def test_sampling_that_collapsed_says_so(all_equal: float | None, collapsed: bool, campaign: Path) -> None:
    """Its prompts give no pairs, and the next rounds give fewer: nothing else says why."""
    (campaign / "round-001" / "generate_responses").mkdir()
    content = {"sampling": {"way": "shared prompts", "reason": None}, "diversity": {"all_equal": all_equal}}
    write_json(campaign / "round-001" / "generate_responses" / "generate.json", content)
    lines = shown(campaign, None, stage="generate_responses")[1:]
    assert len(lines) == collapsed
    assert not collapsed or "50.1 % of the prompts got equal samples only, and such prompts give no pairs" in lines[0]
