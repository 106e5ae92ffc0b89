"""The stop file and the budget end the work on a round, and say how to continue."""

from pathlib import Path
from typing import Any

import pytest

from components.artifacts import read_json, write_json
from components.campaign import stopping
from components.campaign.stopping import (
    STOP_FILE,
    RoundLimits,
    converged_round,
    convergence,
    refuse_if_converged,
)
from components.config import BudgetConfig
from components.records import Converged, RoundStopped


def test_limits_without_budget_or_file_let_work_go_on(tmp_path: Path) -> None:
    limits = RoundLimits(tmp_path / "round-001", BudgetConfig())
    limits.began("round-001", "evaluate")
    limits.advanced(1, 2, "")
    limits.ended("round-001", "evaluate", 1.0, already_done=False)
    assert 0 <= read_json(tmp_path / "round-001" / "spent.json")["seconds"] < 60


def test_limits_stop_file_ends_the_work_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = RoundLimits(tmp_path / "round-001", BudgetConfig())
    (tmp_path / STOP_FILE).touch()
    limits.advanced(1, 9, "")
    monkeypatch.setattr(stopping.time, "monotonic", lambda: limits.looked + stopping.SECONDS_BETWEEN_LOOKS + 0.1)
    with pytest.raises(RoundStopped, match=r"the campaign was stopped by the file .*STOP: remove the file to continue"):
        limits.advanced(2, 9, "")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            BudgetConfig(max_round_minutes=2),
            r"round-003 has used 2 of budget.max_round_minutes = 2: raise it to continue",
        ),
        (
            BudgetConfig(cost_per_hour=30, max_round_cost=1),
            r"round-003 has used 1 of budget.max_round_cost = 1: raise it to continue",
        ),
    ],
)
def test_limits_budget_counts_earlier_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: BudgetConfig, message: str
) -> None:
    round_directory = tmp_path / "round-003"
    round_directory.mkdir()
    write_json(round_directory / "spent.json", {"seconds": 119.0})
    limits = RoundLimits(round_directory, budget)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: limits.started + 1.1)  # beyond rounding
    with pytest.raises(RoundStopped, match=message):
        limits.look()
    assert read_json(round_directory / "spent.json")["seconds"] == pytest.approx(120, abs=0.5)
    with pytest.raises(RoundStopped):
        RoundLimits(round_directory, budget)
    RoundLimits(round_directory, BudgetConfig(max_round_minutes=3))


def collected(*, equal: int, answers: int = 80, pairs: int = 40) -> dict[str, Any]:
    share = equal / answers if answers else None
    return {"pairs": pairs, "demonstrations": {"equal": equal, "answers": answers, "equal_share": share}}


@pytest.mark.parametrize(
    ("counts", "converged"),
    [
        (collected(equal=80, pairs=0), True),
        (collected(equal=72, pairs=8), True),
        (collected(equal=71, pairs=9), False),
        (collected(equal=50, pairs=7), True),
        (collected(equal=39, pairs=7), False),
        (collected(equal=0, answers=0, pairs=0), False),
        ({"pairs": 0}, False),
        (collected(equal=80, pairs=9) | {"feedback": {"rows": 9, "left_out": []}}, False),
        (collected(equal=80, pairs=0) | {"feedback": {"rows": 0, "left_out": []}}, True),
    ],
)
def test_convergence_is_nearly_all_answers_or_most_if_too_few_pairs_are_left(
    counts: dict[str, Any], converged: bool
) -> None:
    assert (convergence(counts, min_pairs=8) is not None) is converged


def test_converged_round_is_the_one_behind_the_last_and_is_told_with_its_counts(tmp_path: Path) -> None:
    stage = tmp_path / "round-003" / "collect_preferences"
    stage.mkdir(parents=True)
    write_json(tmp_path / "config.json", {"validation": {"min_pairs": 8}})
    write_json(stage / "collect.json", collected(equal=79, pairs=1))
    assert converged_round(tmp_path, 2) is None
    (stage / "MANIFEST.json").touch()
    assert converged_round(tmp_path, 3) is None
    told = converged_round(tmp_path, 2)
    assert told is not None
    assert told.startswith("round 3 is not trained: the policy answers as the demonstrations do: 79 of its 80 answers")
    assert "which leaves fewer pairs (1) than validation.min_pairs = 8" in told
    with pytest.raises(Converged, match="nothing is wrong"):
        refuse_if_converged(tmp_path / "round-003", min_pairs=8)
