from pathlib import Path
from typing import Any

import pytest

from components.config import SweepConfig
from components.study.files import Results
from components.study.summary import summarize
from components.sweep.files import SweepResults, Trial, read_results, write_results
from components.sweep.report import verdict, write_report
from tests.study.conftest import Make, make_outcome
from tests.sweep.test_search import sweep_of

__all__ = ["make_outcome"]
DEFAULT: dict[str, Any] = {"training.beta": 0.2, "training.loss": "sigmoid", "training.epochs": 2}


def trial(number: int, value: float | None, state: str = "done", reason: str = "", **values: Any) -> Trial:
    own = DEFAULT | {key.replace("__", "."): value for key, value in values.items()}
    by_round = {} if value is None else {1: value - 0.1, 2: value}
    return Trial(number=number, values=own, state=state, value=value, by_round=by_round, reason=reason)


def results_of(*trials: Trial, config: SweepConfig | None = None, confirmation: Results | None = None) -> SweepResults:
    return SweepResults(
        config=config or sweep_of(trials=3),
        default=DEFAULT,
        trials=trials,
        importances={},
        confirmation=confirmation,
    )


SEARCHED = (trial(0, 0.7), trial(1, 0.9, training__beta=0.4), trial(2, None, "failed", "<b>no</b>"))


def confirmation_of(make_outcome: Make, default: tuple[float, ...], winner: tuple[float, ...]) -> Results:
    config = sweep_of(trials=3).confirmation({"training.beta": 0.4}, {})
    outcomes = [
        make_outcome(arm, seed, [(2.0, 3.0, rate)])
        for arm, rates in (("default", default), ("winner", winner))
        for seed, rate in zip(config.seeds, rates, strict=True)
    ]
    arms = summarize(outcomes, arms=tuple(config.arms), confidence=0.95)
    return Results(config=config, outcomes=tuple(outcomes), arms=arms, failures=())


def test_verdict_before_the_end_counts_the_trials() -> None:
    assert verdict(results_of(trial(0, 0.7))) == "1 of 3 trials have ended"
    assert verdict(results_of(*SEARCHED)) == "trial 1 reached most, and is not confirmed yet"


def test_verdict_base_that_reached_most_stays() -> None:
    trials = (trial(0, 0.9), trial(1, 0.9, training__beta=0.4), trial(2, 0.1, training__beta=0.5))
    assert verdict(results_of(*trials)) == "no trial reached more than the base configuration: it stays"


@pytest.mark.parametrize(
    ("winner", "begins"),
    [
        ((0.80, 0.81, 0.83), "the winner is better: +0.1"),
        ((0.60, 0.61, 0.63), "the winner is worse than the base configuration, which stays: -0.0"),
        ((0.95, 0.71, 0.60), "the winner is not shown to be better than the base configuration: +0.0"),
    ],
)
def test_verdict_is_the_confirmations(make_outcome: Make, winner: tuple[float, ...], begins: str) -> None:
    confirmation = confirmation_of(make_outcome, (0.70, 0.70, 0.71), winner)
    told = verdict(results_of(*SEARCHED, confirmation=confirmation))
    assert told.startswith(begins)
    assert told.endswith("on prompts and 3 seeds that no trial saw")


def test_report_has_trials_and_reasons_and_no_markup_of_theirs(tmp_path: Path) -> None:
    page = write_report(tmp_path, results_of(*SEARCHED)).read_text()
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert page.count("<svg") == 1
    assert page.index('<td class="n">0.900</td>') < page.index('<td class="n">0.700</td>')
    assert (tmp_path / "parameters.png").read_bytes().startswith(b"\x89PNG")


def test_report_before_the_first_trial_has_ended(tmp_path: Path) -> None:
    assert "0 of 3 trials have ended" in write_report(tmp_path, results_of()).read_text()


def test_results_are_read_as_they_were_written(make_outcome: Make, tmp_path: Path) -> None:
    results = results_of(*SEARCHED, confirmation=confirmation_of(make_outcome, (0.7, 0.7, 0.7), (0.8, 0.8, 0.8)))
    assert read_results(tmp_path) is None
    write_results(tmp_path, results)
    assert read_results(tmp_path) == results
