"""Shares of sampled answers that break a rule, counted by hand."""

from types import SimpleNamespace

from components.config import ConstraintsConfig
from components.evaluation.rules import violation_shares


def sampled(text: str, tokens: int, finish_reason: str = "stop") -> SimpleNamespace:
    return SimpleNamespace(text=text, token_ids=[1] * tokens, finish_reason=finish_reason)


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
