"""Write a study's report: one HTML file that needs no network, two pictures beside it, from study.json only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.config import flat
from components.plots.figures import PAPER, THEMED, Palette, styled, to_png, to_svg
from components.plots.study import Mean, frontier_figure, win_rate_figure
from components.plots.study import Path as ArmPath
from components.report import wording
from components.report.pages import write_page
from components.study.files import Results
from components.study.outcomes import Outcome, Point
from components.study.summary import ArmSummary, Spread

REPORT = "report.html"
PLACES = {"win_rate": 3, "reward": 3, "kl": 2, "tokens": 1, "seconds": 0}
TEMPLATE = Path(__file__).parent / "study.html.j2"


def write_report(directory: Path, results: Results) -> Path:
    """Write report.html, frontier.png and win_rates.png into the study's directory; return the report's path."""
    if results.arms:
        for name, draw in (("frontier", _frontier), ("win_rates", _win_rates)):
            with styled(PAPER, name):
                to_png(draw(results, PAPER), directory / f"{name}.png")
    filters = {name: getattr(wording, name) for name in ("count", "memory", "duration")} | {"spread": spread}
    return write_page(directory / REPORT, TEMPLATE, _view(results), filters)


def spread(value: Spread | None, places: int, *, signed: bool = False) -> str:
    """Return a mean with its interval; one seed has none, and what is not measured is a dash."""
    if value is None:
        return wording.NOTHING
    sign = "+" if signed else ""
    mean = f"{value.value:{sign}.{places}f}"
    if value.low is None or value.high is None:
        return mean
    return f"{mean} [{value.low:{sign}.{places}f}, {value.high:{sign}.{places}f}]"


def findings(results: Results) -> list[str]:
    """Return what the study shows of each arm beside the baseline, beyond the interval or not, in plain words."""
    baseline = results.config.baseline
    return [_finding(arm, baseline) for arm in results.arms if arm.arm != baseline and arm.differences]


def _finding(arm: ArmSummary, baseline: str) -> str:
    by = arm.differences["win_rate"]
    measured = f"its win rate against the start is {spread(by, 3, signed=True)} beside that of {baseline}"
    if by.low is None or by.high is None:
        return f"{arm.arm}: {measured}, with {by.n} seed{'s' * (by.n > 1)}, which show no spread"
    if by.low <= 0 <= by.high:
        return f"{arm.arm}: no difference is shown; {measured}"
    return f"{arm.arm}: {'better' if by.low > 0 else 'worse'}; {measured}"


def _view(results: Results) -> dict[str, Any]:
    config = results.config
    return {
        "results": results,
        "config": config,
        "total": len(config.arms) * len(config.seeds),
        "findings": findings(results),
        "places": PLACES,
        "measured_reward": _has_rewards(results),
        "changes": {name: _settings(arm.settings) or "the base configuration" for name, arm in config.arms.items()},
        "common": _settings(flat(config.change)),
        "charts": _charts(results) if results.arms else [],
        "title": f"{config.study} · Ratchet",
    }


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in settings.items())


def _charts(results: Results) -> list[tuple[str, str, Any]]:
    with styled(THEMED, "frontier"):
        frontier = to_svg(_frontier(results, THEMED), "What each arm reached by its distance from the start")
    with styled(THEMED, "win-rates"):
        rates = to_svg(_win_rates(results, THEMED), "Win rate of each arm against the start")
    note = "means over seeds with their intervals; faint: the seeds"
    return [("Frontier", note, frontier), ("Win rate", "the champion in the end, against the start", rates)]


def _has_rewards(results: Results) -> bool:
    return all("reward" in arm.measures for arm in results.arms)


def _win_rates(results: Results, palette: Palette) -> Any:
    return win_rate_figure({arm.arm: _mean(arm.measures["win_rate"]) for arm in results.arms}, palette)


def _frontier(results: Results, palette: Palette) -> Any:
    """Draw reward against KL; a judge that gives no scores leaves the win rate."""
    scored = _has_rewards(results)
    paths = {}
    for arm in results.arms:
        heights = [point.reward if scored else point.win_rate for point in arm.frontier]
        seeds = [_path_of(each, scored) for each in results.outcomes if each.arm == arm.arm]
        paths[arm.arm] = ArmPath(
            kl=[_mean(point.kl) for point in arm.frontier],
            height=[_mean(height) for height in heights if height is not None],
            seeds=seeds if len(seeds) > 1 else [],
        )
    return frontier_figure(paths, palette, height="judge score" if scored else "win rate against the start")


def _path_of(outcome: Outcome, scored: bool) -> tuple[list[float], list[float]]:
    heights = [_height(point, scored) for point in outcome.points]
    start = [outcome.start_reward] if scored and outcome.start_reward is not None else [0.5]
    return [0.0, *(point.kl for point in outcome.points)], [*start, *heights]


def _height(point: Point, scored: bool) -> float:
    return point.reward if scored and point.reward is not None else point.win_rate


def _mean(value: Spread) -> Mean:
    return Mean(value.value, value.low, value.high)
