"""Shares of sampled answers that break a rule, counted by hand."""

from typing import Any

from components.config import ConstraintsConfig
from components.evaluation.rules import violation_shares
from components.generation.responses import Response


def sampled(text: str, tokens: int, finish_reason: Any = "stop", *, by_text: bool = False) -> Response:
    return Response(text, [1] * tokens, finish_reason, stopped_by_text=by_text)


def test_violation_shares_count_each_rule_by_model() -> None:
    responses = {
        "challenger": [
            sampled("so sorry", 3),
            sampled("fine", 4),
            sampled("sorry sorry", 4, "length"),
            sampled("ok", 2),
        ],
        "start": [sampled("sorry", 9)],
    }
    shares = violation_shares(responses, ConstraintsConfig(banned_phrases=("sorry", "apolog"), max_tokens=3))
    # Three tokens and an end keep a ceiling of three; four tokens that were cut do not.
    assert shares == {
        "banned_phrases": {"challenger": 0.5, "start": 1.0},
        "max_tokens": {"challenger": 0.25, "start": 1.0},
    }


def test_violation_shares_of_rules_that_are_not_configured_are_left_out() -> None:
    assert violation_shares({"start": [sampled("sorry", 9)]}, ConstraintsConfig()) == {}


def test_violation_shares_count_all_tokens_of_a_response_that_a_stop_string_ended() -> None:
    responses = {"start": [sampled("a b c d", 4, by_text=True), sampled("a b c", 4)]}
    assert violation_shares(responses, ConstraintsConfig(max_tokens=3)) == {"max_tokens": {"start": 0.5}}
