from pathlib import Path

import pytest

from components.config import StudyConfig
from components.report.wording import NOTHING
from components.study.files import Failure, Results, read_results, write_results
from components.study.report import findings, spread, write_report
from components.study.summary import Spread, summarize
from tests.study.conftest import Make


def results_of(config: StudyConfig, *outcomes: object, failures: tuple[Failure, ...] = ()) -> Results:
    arms = summarize(outcomes, arms=tuple(config.arms), confidence=config.confidence)  # type: ignore[arg-type]
    return Results(config=config, outcomes=outcomes, arms=arms, failures=failures)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ((0.60, 0.61, 0.63), "offline: worse; its win rate against the start is -0.197 ["),
        ((0.70, 0.71, 0.72), "offline: its win rate against the start is -0.100 beside that of loop, with 3 seeds, "),
        ((0.79, 0.90, 0.78), "offline: no difference is shown; "),
        ((0.95, 0.95, 0.97), "offline: better; "),
    ],
)
def test_report_says_beyond_the_interval_or_not(
    config: StudyConfig, make_outcome: Make, theirs: tuple[float, ...], word: str
) -> None:
    loop = [make_outcome("loop", seed, [(2.0, 3.0, rate)]) for seed, rate in enumerate((0.80, 0.81, 0.82), 1)]
    offline = [make_outcome("offline", seed, [(2.0, 3.0, rate)]) for seed, rate in enumerate(theirs, 1)]
    (line,) = findings(results_of(config, *loop, *offline))
    assert line.startswith(word)


def test_report_one_seed_shows_nothing(config: StudyConfig, make_outcome: Make) -> None:
    results = results_of(
        config, make_outcome("loop", 1, [(2.0, 3.0, 0.8)]), make_outcome("offline", 1, [(2.0, 3.0, 0.1)])
    )
    (line,) = findings(results)
    assert line.endswith("is -0.700 beside that of loop, with 1 seed, which show no spread")


def test_report_page_has_arms_failures_and_no_markup_of_theirs(
    config: StudyConfig, make_outcome: Make, tmp_path: Path
) -> None:
    outcomes = [
        make_outcome(arm, seed, [(2.0 + seed / 10, 3.0, 0.8), (3.0, 5.0 + seed, 0.9)])
        for arm in ("loop", "offline")
        for seed in (1, 2)
    ]
    failure = Failure(arm="offline", seed=3, reason="<script>alert(1)</script> failed")
    results = results_of(config, *outcomes, failures=(failure,))
    page = write_report(tmp_path, results).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; failed" in page
    assert "4 of 6 campaigns are done" in page
    assert "method: offline, training.loss: ipo" in page
    assert page.count("<svg") == 2
    for name in ("frontier.png", "win_rates.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_report(tmp_path, results)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == again


def test_report_without_scores_draws_win_rates(config: StudyConfig, make_outcome: Make, tmp_path: Path) -> None:
    results = results_of(config, *[make_outcome(arm, 1, [(None, 3.0, 0.8)]) for arm in ("loop", "offline")])
    page = write_report(tmp_path, results).read_text()
    assert "Reward" not in page
    assert "win rate against the start" in page


def test_report_before_the_first_arm_is_done_names_what_failed(config: StudyConfig, tmp_path: Path) -> None:
    page = write_report(tmp_path, results_of(config, failures=(Failure(arm="loop", seed=1, reason="no"),))).read_text()
    assert "loop, seed 1: no" in page
    assert "Nothing to compare yet." in page
    assert not (tmp_path / "frontier.png").exists()


def test_results_are_read_as_they_were_written(config: StudyConfig, make_outcome: Make, tmp_path: Path) -> None:
    results = results_of(config, make_outcome("loop", 1, [(2.0, 3.0, 0.8)]))
    assert read_results(tmp_path / "none") is None
    write_results(tmp_path, results)
    assert read_results(tmp_path) == results
    assert not results.is_complete


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NOTHING),
        (Spread(value=0.5, low=None, high=None, n=1), "+0.50"),
        (Spread(value=-0.5, low=-1.0, high=0.0, n=3), "-0.50 [-1.00, +0.00]"),
    ],
)
def test_spread_is_written_with_its_interval(value: Spread | None, text: str) -> None:
    assert spread(value, 2, signed=True) == text
