"""The terminal's lines on a finished training."""

import re
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.artifacts import write_json
from flows.terminal.rounds import StageProgress

REASON = "LlamaForCausalLM cannot be packed: its attention has [dropout] " + "and more " * 12


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


def test_terminal_with_a_bar_has_no_such_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "0.05")
    console = Console(file=StringIO(), force_terminal=True)
    with StageProgress(console) as display:
        display.began("rewards", "reward_model")
        time.sleep(0.2)
    assert "memory" not in console.file.getvalue()  # type: ignore[attr-defined]
