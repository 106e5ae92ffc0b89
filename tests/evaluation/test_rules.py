"""Shares of sampled answers that break a rule, counted by hand."""

import logging
from pathlib import Path
from typing import Any

import pytest

from components.config import ConstraintsConfig
from components.evaluation.rules import judged_violations, violation_shares
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


def test_judged_violations_are_means_by_model_of_what_the_function_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By hand: the challenger breaks it by 1 and 0.5, the start by 0 and in a way that the function cannot tell."""
    (tmp_path / "rules.py").write_text(
        "def leaks(response, secret):\n    return {'b': 0.5, 'odd': 3}.get(response, secret in response)\n"
    )
    constraints = ConstraintsConfig(function=f"{tmp_path}/rules.py:leaks", memory_limit_gb=1)
    responses = {
        "challenger": [sampled("x1", 2), sampled("b", 1)],
        "start": [sampled("x2", 1), sampled("odd", 1)],
        "champion": [sampled("odd", 1), sampled("odd", 1)],
    }
    prompts = [[{"role": "user", "content": text}] for text in ("p", "q")]
    columns = [{"secret": "x1"}, {"secret": "z"}]
    with caplog.at_level(logging.WARNING):
        means = judged_violations(responses, prompts, columns, constraints, scratch=tmp_path)
    assert means == {"function": {"challenger": 0.75, "start": 0.0, "champion": None}}
    assert "failed on 3 of 6 held-out responses" in caplog.text
    assert "it returned 3, but a violation is in [0, 1]" in caplog.text
    assert judged_violations(responses, prompts, columns, ConstraintsConfig(), scratch=tmp_path) == {}
