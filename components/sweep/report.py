"""Write a sweep's report: one HTML file that needs no network, a picture beside it, from sweep.json only."""

from pathlib import Path
from typing import Any

from components.config import WINNER
from components.plots.figures import PAPER, THEMED, Palette, styled, to_png, to_svg
from components.plots.sweep import Slice, slices_figure
from components.report.pages import write_page
from components.report.wording import decimal
from components.study.report import spread
from components.sweep.files import SweepResults

REPORT = "report.html"
TEMPLATE = Path(__file__).parent / "sweep.html.j2"
USUAL: dict[str, tuple[float, float]] = {
    "training.beta": (0.1, 0.5),
    "training.learning_rate": (1e-6, 1e-5),
    "training.pairs_per_step": (32, 128),
}
"""Ranges that guides of DPO give for models of billions of parameters."""
OBJECTIVES = {"win_rate": "win rate against the start", "reward": "judge score"}


def write_report(directory: Path, results: SweepResults) -> Path:
    """Write report.html and parameters.png into the sweep's directory; return the report's path."""
    done = results.best is not None
    if done:
        with styled(PAPER, "parameters"):
            to_png(_figure(results, PAPER), directory / "parameters.png")
    view = {
        "results": results,
        "config": results.config,
        "objective": OBJECTIVES[results.config.objective],
        "verdict": verdict(results),
        "svg": _svg(results) if done else None,
        "usual": {key: USUAL[key] for key in results.config.parameters if key in USUAL},
        "ranked": sorted(results.trials, key=_rank),
    }
    return write_page(directory / REPORT, TEMPLATE, view, {"decimal": decimal, "value": value_text})


def verdict(results: SweepResults) -> str:
    """Say in one sentence what the sweep has shown, or how far it is."""
    best = results.best
    if not results.is_searched or best is None:
        return f"{len(results.trials)} of {results.config.trials} trials have ended"
    if best.values == results.default:
        return "no trial reached more than the base configuration: it stays"
    if results.confirmation is None or not results.confirmation.is_complete:
        return f"trial {best.number} reached most, and is not confirmed yet"
    winner = next(arm for arm in results.confirmation.arms if arm.arm == WINNER)
    by = winner.differences[results.config.objective]
    measured = (
        f"{spread(by, 3, signed=True)} in {OBJECTIVES[results.config.objective]} beside the base configuration, on "
        f"prompts and {by.n} seeds that no trial saw"
    )
    if by.low is not None and by.low > 0:
        return f"the winner is better: {measured}"
    if by.high is not None and by.high < 0:
        return f"the winner is worse than the base configuration, which stays: {measured}"
    return f"the winner is not shown to be better than the base configuration: {measured}"


def value_text(value: object) -> str:
    """Return a parameter's value as a person writes it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rank(trial: Any) -> tuple[bool, float, int]:
    return trial.value is None, -(trial.value or 0.0), trial.number


def _svg(results: SweepResults) -> Any:
    with styled(THEMED, "parameters"):
        return to_svg(_figure(results, THEMED), "What the trials reached by each parameter")


def _figure(results: SweepResults, palette: Palette) -> Any:
    done = [trial for trial in results.trials if trial.value is not None]
    slices = [
        Slice(
            name=key,
            values=[trial.values[key] for trial in done],
            reached=[trial.value for trial in done if trial.value is not None],
            is_base=[trial.values == results.default for trial in done],
            is_log=parameter.log,
            usual=USUAL.get(key),
        )
        for key, parameter in results.config.parameters.items()
    ]
    return slices_figure(slices, palette, objective=OBJECTIVES[results.config.objective])
