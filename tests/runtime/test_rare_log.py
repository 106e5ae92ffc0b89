"""Errors that come again and again are told, and do not fill the log."""

import logging

import pytest

from components.runtime.rare_log import RareLog


def test_error_of_a_subject_is_told_once_a_minute_and_again_after_it_went_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    errors = RareLog(logging.getLogger("rare"), clock=lambda: now[0])

    def attempt(subject: str, *, fails: bool = True) -> int:
        with errors.attempt(subject):
            if fails:
                raise ValueError(f"{subject} is damaged")
        return len(caplog.records)

    assert [attempt("one"), attempt("one"), attempt("two"), attempt("two")] == [1, 1, 2, 2]
    now[0] = 59.0
    assert attempt("one") == 2
    now[0] = 60.0
    assert attempt("one") == 3
    attempt("one", fails=False)
    assert attempt("one") == 4, "it is a new error"
    assert "one is damaged" in caplog.text
    assert "Traceback" not in caplog.text


def test_unexpected_error_is_told_with_its_place_and_errors_of_others_are_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors = RareLog(logging.getLogger("rare"))
    with errors.attempt("one"):
        raise RuntimeError("a fault of ours")
    assert "Traceback" in caplog.text
    with pytest.raises(ConnectionError), errors.attempt("one", but=(ConnectionError,)):
        raise ConnectionError("away")
