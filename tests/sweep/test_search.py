from pathlib import Path
from typing import Any

import optuna
import pytest

from components.config import SweepConfig
from components.sweep.search import Asked, Search

DEFAULT: dict[str, Any] = {"training.beta": 0.2, "training.loss": "sigmoid", "training.epochs": 2}


def sweep_of(**changes: Any) -> SweepConfig:
    parameters = {
        "training.beta": {"low": 0.05, "high": 0.8, "log": True},
        "training.loss": {"choices": ["sigmoid", "ipo"]},
        "training.epochs": {"low": 1, "high": 4},
    }
    return SweepConfig.model_validate(
        {"sweep": "mine", "base": "demo.yaml", "trials": 8, "parameters": parameters} | changes
    )


def reached(asked: Asked) -> float:
    """A smooth hill whose top is at a beta of 0.4, with the loss and the epochs almost flat."""
    beta = asked.values["training.beta"]
    assert isinstance(beta, float)
    return 1.0 - abs(beta - 0.4) - 0.001 * (asked.values["training.loss"] == "ipo")


def search_all(directory: Path, config: SweepConfig) -> list[Asked]:
    search, every = Search(directory, config, default=DEFAULT), []
    while (asked := search.ask()) is not None:
        every.append(asked)
        search.finish(asked.number, reached(asked))
    return every


def test_search_begins_with_the_base_and_stays_in_its_ranges(tmp_path: Path) -> None:
    every = search_all(tmp_path, sweep_of())
    assert [asked.number for asked in every] == list(range(8))
    assert every[0].values == DEFAULT
    assert all(0.05 <= asked.values["training.beta"] <= 0.8 for asked in every)  # type: ignore[operator]
    assert all(asked.values["training.epochs"] in (1, 2, 3, 4) for asked in every)
    assert all(isinstance(asked.values["training.epochs"], int) for asked in every)
    search = Search(tmp_path, sweep_of(), default=DEFAULT)
    assert search.ask() is None
    importances = search.importances
    assert next(iter(importances)) == "training.beta"
    assert sum(importances.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("killed_at", [0, 3, 6])
def test_search_that_is_killed_draws_what_it_would_have_drawn(tmp_path: Path, killed_at: int) -> None:
    whole = search_all(tmp_path / "whole", sweep_of())
    config, drawn = sweep_of(), []
    search = Search(tmp_path / "killed", config, default=DEFAULT)
    while (asked := search.ask()) is not None:
        if asked.number == killed_at:
            # Another process opens the journal, and is given the trial that had not ended.
            search = Search(tmp_path / "killed", config, default=DEFAULT)
            assert search.ask() == asked
        drawn.append(asked)
        search.finish(asked.number, reached(asked))
    assert drawn == whole


def test_search_prunes_below_the_median_and_not_before_some_are_done(tmp_path: Path) -> None:
    search = Search(tmp_path, sweep_of(trials=12), default=DEFAULT)
    hopeless = []
    for value in (0.5, 0.6, 0.7, 0.8, 0.4, 0.9):
        asked = search.ask()
        assert asked is not None
        hopeless.append(search.is_hopeless(asked.number, round=1, value=value))
        if hopeless[-1]:
            search.prune(asked.number)
        else:
            search.finish(asked.number, value)
    assert hopeless == [False, False, False, False, True, False]
    states = [(trial.state, trial.value, trial.by_round) for trial in search.trials]
    assert states[4:] == [("pruned", None, {1: 0.4}), ("done", 0.9, {1: 0.9})]


def test_search_trial_that_failed_has_its_reason_and_is_not_given_out_again(tmp_path: Path) -> None:
    search = Search(tmp_path, sweep_of(trials=2), default=DEFAULT)
    first = search.ask()
    assert first is not None
    search.fail(first.number, "the loss is not finite")
    second = search.ask()
    assert second is not None
    assert second.number == 1
    search.finish(1, 0.7)
    assert search.ask() is None
    again = Search(tmp_path, sweep_of(trials=2), default=DEFAULT)
    assert [(trial.state, trial.reason) for trial in again.trials] == [
        ("failed", "the loss is not finite"),
        ("done", ""),
    ]


def test_search_that_is_killed_while_it_draws_draws_the_rest_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search_all(tmp_path / "whole", sweep_of())
    search = Search(tmp_path / "killed", sweep_of(), default=DEFAULT)
    for _ in range(4):
        asked = search.ask()
        assert asked is not None
        search.finish(asked.number, reached(asked))
    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "suggest_float", killed)
        with pytest.raises(SystemExit):
            search.ask()
    asked = Search(tmp_path / "killed", sweep_of(), default=DEFAULT).ask()
    assert asked == whole[4]


def killed(*_: Any, **__: Any) -> None:
    raise SystemExit


def test_search_more_trials_go_on_from_the_journal(tmp_path: Path) -> None:
    few = search_all(tmp_path, sweep_of(trials=3))
    more = search_all(tmp_path, sweep_of(trials=5))
    assert [asked.number for asked in [*few, *more]] == [0, 1, 2, 3, 4]
