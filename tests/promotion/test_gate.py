import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import file_digest, read_json, write_json
from components.config import GateConfig
from components.promotion.gate import decide
from components.promotion.stage import run
from components.records import Artifact, PromoteRequest

GOOD: dict[str, Any] = {
    "num_prompts": 256,
    "win_rate_vs_champion": {"value": 0.74, "low": 0.69, "high": 0.79, "n": 96},
    "win_rate_vs_start": {"value": 0.81, "low": 0.77, "high": 0.85, "n": 96},
    "evidence": {"level": 0.02, "e_value": 50.0, "shown": True, "num_judged": 96, "num_prompts": 256},
    "kl_to_start": 12.3,
    "mean_tokens": {"start": 25.0, "champion": 20.0, "challenger": 24.0},
    "empty_share": {"start": 0.1, "champion": 0.0, "challenger": 0.01},
    "unfinished_share": {"start": 0.1, "champion": 0.5, "challenger": 0.02},
    "unfinished_increase": {"value": -0.47, "low": -0.53, "high": -0.4, "n": 256},
}
GATE = GateConfig(max_length_ratio=1.5, max_kl_to_start=50.0, max_unfinished_share=0.1, max_unfinished_increase=0.05)


def changed(path: str, value: Any) -> dict[str, Any]:
    evaluation = deepcopy(GOOD)
    *parents, last = path.split(".")
    place = evaluation
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return evaluation


def test_gate_promotes_a_better_challenger_and_says_why_with_numbers() -> None:
    assert decide(GOOD, GATE) == (
        True,
        (
            "win rate 0.740 [0.690, 0.790] against the champion on 96 of 256 prompts is shown to be above 0.5 "
            "(e-value 50, and level 0.02 needs 50)",
            "win rate 0.810 against the start is not below 0.5",
            "mean length 24.0 tokens is 1.20 times the champion's 20.0, within 1.5",
            "mean length 24.0 tokens is 0.96 times the start's 25.0, within 2.5",
            "KL to the start is 12.30 nats a response, within 50",
            "share of empty or unfinished responses is 0.030, within 0.1",
            "share of empty or unfinished responses changes by -0.470 [-0.530, -0.400] against the champion's, "
            "within 0.05",
        ),
    )


def test_gate_does_not_call_every_share_within_a_limit_that_is_off() -> None:
    off = GATE.model_copy(update={"max_unfinished_share": 1.0})
    reasons = decide(changed("unfinished_share.challenger", 0.7), off).reasons
    assert "share of empty or unfinished responses is 0.710, without a limit" in reasons


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (
            "evidence",
            {"level": 0.004, "e_value": 12.34, "shown": False, "num_judged": 256, "num_prompts": 256},
            "win rate 0.740 [0.690, 0.790] against the champion on 256 of 256 prompts is not shown to be above 0.5 "
            "(e-value 12.3, and level 0.004 needs 250)",
        ),
        ("win_rate_vs_start.value", 0.2, "win rate 0.200 against the start is below 0.5"),
        ("mean_tokens.start", 9.5, "mean length 24.0 tokens is 2.53 times the start's 9.5, above the limit 2.5"),
        ("mean_tokens.start", 61.0, "mean length 24.0 tokens is 0.39 times the start's 61.0, below the limit 0.4"),
        (
            "mean_tokens.challenger",
            30.2,
            "mean length 30.2 tokens is 1.51 times the champion's 20.0, above the limit 1.5",
        ),
        (
            "mean_tokens.champion",
            50.0,
            "mean length 24.0 tokens is 0.48 times the champion's 50.0, below the limit 0.5",
        ),
        ("kl_to_start", 50.5, "KL to the start is 50.50 nats a response, above the limit 50"),
        ("empty_share.challenger", 0.09, "share of empty or unfinished responses is 0.110, above the limit 0.1"),
        ("unfinished_share.challenger", 0.2, "share of empty or unfinished responses is 0.210, above the limit 0.1"),
        (
            "unfinished_increase",
            {"value": 0.0625, "low": 0.031, "high": 0.098, "n": 256},
            "share of empty or unfinished responses changes by +0.062 [+0.031, +0.098] against the champion's, "
            "surely an increase and above the limit 0.05",
        ),
    ],
)
def test_gate_refuses_for_each_reason_alone(path: str, value: Any, reason: str) -> None:
    assert decide(changed(path, value), GATE) == (False, (reason,))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("win_rate_vs_start.value", 0.5),
        ("mean_tokens.challenger", 30.0),
        ("mean_tokens.challenger", 10.0),
        ("kl_to_start", 50.0),
        ("unfinished_increase", {"value": 0.05, "low": 0.02, "high": 0.08, "n": 256}),
        ("unfinished_increase", {"value": 0.125, "low": 0.0, "high": 0.25, "n": 24}),
    ],
    ids=[
        "win rate against the start",
        "length",
        "half the length",
        "KL",
        "sure increase within the margin",
        "unsure increase above it",
    ],
)
def test_gate_promotes_at_the_limits(path: str, value: Any) -> None:
    assert decide(changed(path, value), GATE).promoted


def test_gate_without_a_lower_limit_takes_any_length() -> None:
    gate = GATE.model_copy(update={"min_length_ratio": 0.0, "min_length_ratio_to_start": 0.0})
    assert decide(changed("mean_tokens.challenger", 0.1), gate).promoted


def test_gate_refuses_a_challenger_of_a_champion_that_an_audit_doubts() -> None:
    doubted = changed("audit", {"contradictions": ["round 7, the champion, wins 0.412 against the start"]})
    assert decide(doubted, GATE).reasons == ("audit: round 7, the champion, wins 0.412 against the start",)
    for fine in (None, {"contradictions": []}):
        assert decide(changed("audit", fine), GATE) == decide(GOOD, GATE)


def test_gate_names_every_reason_against() -> None:
    evaluation = changed("mean_tokens.challenger", 60.0) | {"kl_to_start": 80.0}
    evaluation["mean_tokens"]["start"] = 40.0
    decision = decide(evaluation, GATE)
    assert not decision.promoted
    assert len(decision.reasons) == 2


NEEDED = [
    "win_rate_vs_champion",
    "win_rate_vs_champion.value",
    "win_rate_vs_champion.low",
    "win_rate_vs_champion.high",
    "win_rate_vs_start",
    "win_rate_vs_start.value",
    "evidence",
    "evidence.level",
    "evidence.e_value",
    "evidence.num_judged",
    "evidence.num_prompts",
    "kl_to_start",
    "mean_tokens",
    "mean_tokens.start",
    "mean_tokens.champion",
    "mean_tokens.challenger",
    "empty_share",
    "empty_share.challenger",
    "unfinished_share.challenger",
    "unfinished_increase",
    "unfinished_increase.value",
    "unfinished_increase.low",
    "unfinished_increase.high",
]


@pytest.mark.parametrize("value", [KeyError, None, math.nan, math.inf, -math.inf, "0.9", True, []])
@pytest.mark.parametrize("path", NEEDED)
def test_gate_without_a_usable_number_refuses(path: str, value: Any) -> None:
    decision = decide(changed(path, value), GATE)
    assert not decision.promoted
    assert decision.reasons[0].endswith("no promotion without it")


@pytest.mark.parametrize("value", [KeyError, None, False, "true", 1, math.nan])
def test_gate_takes_nothing_but_true_for_evidence_that_suffices(value: Any) -> None:
    assert not decide(changed("evidence.shown", value), GATE).promoted


def test_gate_with_guards_against_the_start_off_looks_at_nothing_of_it() -> None:
    off = {"min_win_rate_vs_start": 0.0, "max_length_ratio_to_start": 0.0, "min_length_ratio_to_start": 0.0}
    evaluation = changed("mean_tokens.start", None) | {"win_rate_vs_start": None}
    assert decide(evaluation, GATE.model_copy(update=off)).promoted
    no_upper = GATE.model_copy(update=off | {"min_length_ratio_to_start": 0.4})
    assert "mean length 24.0 tokens is 0.96 times the start's 25.0, not below 0.4" in decide(GOOD, no_upper).reasons


def test_gate_with_a_champion_without_length_refuses() -> None:
    assert not decide(changed("mean_tokens.champion", 0.0), GATE).promoted


def test_gate_does_not_look_at_other_numbers() -> None:
    assert decide(changed("unfinished_share.champion", None), GATE).promoted


def test_gate_by_default_lets_a_start_that_is_mostly_cut_be_improved() -> None:
    """With an absolute limit no round of such a campaign could ever pass."""
    cut = changed("unfinished_share.challenger", 0.7)
    assert decide(cut, GateConfig()).promoted
    assert not decide(cut, GateConfig(max_unfinished_share=0.2)).promoted


def test_gate_of_a_campaign_of_0_1_decides_as_it_did_and_in_its_words() -> None:
    former = GateConfig(**GateConfig.FORMER_DEFAULTS)
    unmeasured = changed("unfinished_increase", KeyError)
    assert decide(unmeasured, former).promoted
    assert decide(unmeasured, former).reasons[-1] == "share of empty or unfinished responses is 0.030, within 0.2"


@pytest.mark.parametrize(
    ("evaluation", "promoted"),
    [(lambda: GOOD, True), (lambda: changed("evidence.shown", False), False)],
    ids=["better", "unsure"],
)
def test_promotion_writes_the_gates_decision(
    tmp_path: Path, evaluation: Callable[[], dict[str, Any]], promoted: bool
) -> None:
    path = tmp_path / "evaluation.json"
    write_json(path, evaluation())
    out = tmp_path / "promote"
    out.mkdir()
    run(PromoteRequest(evaluation=Artifact(path=path, digest=file_digest(path)), gate=GATE), out)
    decision = decide(evaluation(), GATE)
    assert [file.name for file in out.iterdir()] == ["decision.json"]
    assert read_json(out / "decision.json") == {"promoted": promoted, "reasons": list(decision.reasons)}
    assert json.loads((out / "decision.json").read_text())["reasons"]
