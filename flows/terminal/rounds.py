"""Rounds on the terminal: a line per finished stage, a bar for the running one, and the closing table."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from components.artifacts import read_json
from components.campaign.config import CONFIG, with_former_knobs
from components.campaign.state import read_state
from components.report.tables import decisions, measure_rows, rollback_lines, round_rows
from components.report.wording import broken_checks, collapse, start_answers, start_remedies, start_training
from components.runtime.addresses import without_password
from components.runtime.printable import one_line
from components.runtime.watch import StageWatch, saying

SHOWN_ROUNDS = 20
"""About as many as a terminal shows at once."""


class StageProgress:
    """Show stages as they run; a `components.runtime.progress.Listener`. Off a terminal, print a line a minute.

    Args:
        console: Console to print on.
        campaign: Directory of the campaign whose rounds run; None if the stage does not belong to a round.
    """

    def __init__(self, console: Console, campaign: Path | None = None) -> None:
        self.console, self.campaign = console, campaign
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(
            SpinnerColumn(), *columns, TextColumn("{task.fields[text]}", markup=False), console=console, transient=True
        )
        self.task: Any = None
        self.watch, self.lines = StageWatch(), contextlib.ExitStack()

    def __enter__(self) -> "StageProgress":
        self.lines.enter_context(_warnings_of_mlflow(self._print_line))
        if self.console.is_terminal:
            self.bar.start()
        else:
            self.lines.enter_context(saying(self.watch, self._print_line))
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        if self.console.is_terminal:  # else stopping the bar prints an empty line
            self.bar.stop()

    def began(self, round: str, stage: str) -> None:
        """Open a bar for the stage."""
        self._close()
        self.watch.began(round, stage)
        self.task = self.bar.add_task(one_line(f"{round}  {stage}"), total=None, text="")

    def advanced(self, done: int, total: int, text: str) -> None:
        """Move the bar."""
        if self.task is None:
            return
        text = one_line(text)
        self.watch.advanced(done, total, text)
        self.bar.update(self.task, completed=done, total=total, text=text)

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Replace the bar by a line."""
        self._close()
        self.watch.ended(round, stage, seconds, already_done=already_done)
        note = "already done" if already_done else f"{seconds:.1f} s"
        self.console.print(f"{round}  {stage:<22}{note}", highlight=False, markup=False)
        if stage == "start" and self.campaign is not None:
            for line in _start_notes(self.campaign, read_json(self.campaign / round / stage / "start.json")):
                self._explain(round, line)
        if stage == "dpo_train" and self.campaign is not None:
            for line in _training_notes(read_json(self.campaign / round / stage / "train.json")):
                self._explain(round, line)
        if stage == "validate_data" and self.campaign is not None:
            broken = broken_checks(read_json(self.campaign / round / stage / "validation.json"))
            if broken is not None:
                self._explain(round, broken)
        if stage == "generate_responses" and self.campaign is not None:
            for line in _sampling_notes(read_json(self.campaign / round / stage / "generate.json")):
                self._explain(round, line)

    def _print_line(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _explain(self, round: str, note: str) -> None:
        """Print what is to be known of a stage, below its line."""
        self._print_line(f"{'':<{len(round)}}  {one_line(note)}")

    def _close(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None


@contextlib.contextmanager
def _warnings_of_mlflow(say: Callable[[str], None]) -> Iterator[None]:
    """Call `say` with each warning about MLflow within the block: a round that it lacks looks like any other."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger, handler = logging.getLogger("components.tracking"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _start_notes(campaign: Path, start: dict[str, Any]) -> list[str]:
    """Return what a user must know of the start model; earlier versions did not measure its answers."""
    stops, measured = start.get("stop_tokens", {}), start.get("measured")
    lines = [f"answers end at {', '.join(f'{token} ({id})' for token, id in stops.items())}"] if stops else []
    lines = [*start_training(start), *lines, *_leaks(start)]
    if measured is None:
        return lines
    gate = with_former_knobs(read_json(campaign / CONFIG))["gate"]
    remedies = start_remedies(measured, max_unfinished_share=gate["max_unfinished_share"])
    return [*lines, start_answers(measured), *remedies]


def _leaks(start: dict[str, Any]) -> list[str]:
    """Return what training prompts have in common with held-out ones; earlier versions did not look."""
    dropped, near = start.get("dropped_conversations"), start.get("near_held_out")
    lines = []
    if dropped:
        lines.append(f"{dropped} training prompts are left out: they begin or continue a held-out conversation")
    if near:
        total = start["num_train_prompts"]
        lines.append(f"{near} of {total} training prompts are nearly the same as a held-out one")
    return lines


def _sampling_notes(generated: dict[str, Any]) -> list[str]:
    """Return what a user must know of finished sampling; earlier versions published less."""
    sampling, collapsed = generated.get("sampling"), collapse(generated)
    lines = [] if collapsed is None else [collapsed]
    if sampling is not None and sampling["reason"]:
        lines.append(f"by a slower way ({sampling['way']}): {sampling['reason']}")
    return lines


def _training_notes(trained: dict[str, Any]) -> list[str]:
    """Return what a user must know of a finished training; earlier versions have only some of it."""
    scoring, made, published = (trained.get(name) for name in ("scoring", "num_steps", "published_step"))
    notes = []
    if scoring is not None and not scoring["packed"]:
        notes.append(f"in padded rows, which takes more time and memory than packed ones: {scoring['reason']}")
    if trained.get("stopped_early"):
        notes.append(f"stopped early, after {made} of {trained['planned_steps']} steps: {trained['stopped_early']}")
    if published not in (None, made):
        notes.append(f"published are the weights behind step {published} of {made}, the best evaluation")
    return [*notes, *(trained.get("diagnosis") or [])]


def print_rounds(console: Console, state: dict[str, Any], *, last: int | None = SHOWN_ROUNDS) -> None:
    """Print the campaign's rounds: measures, seconds per stage, and the gate's decision with its reasons.

    Args:
        console: Console to print on.
        state: Content of campaign.json.
        last: How many of the latest rounds to show, besides the champion's round; None shows all.
    """
    if not state["rounds"]:
        console.print(f"campaign {state['campaign']}: no round has finished yet", highlight=False)
        return
    champion = state["champion"]["round"]
    console.print(
        f"\ncampaign {state['campaign']}: the champion is {f'round {champion} (*)' if champion else 'the start model'}",
        highlight=False,
    )
    shown = state if last is None else _with_latest_rounds(state, last)
    left_out = len(state["rounds"]) - len(shown["rounds"])
    if left_out:
        console.print(
            f"{left_out} earlier rounds are left out; `ratchet status {state['campaign']} --all` shows them",
            highlight=False,
        )
    print_table(console, round_rows(shown))
    console.print("the challengers' means, and seconds a stage", highlight=False)
    print_table(console, measure_rows(shown))
    for line in [*decisions(shown), *rollback_lines(state)]:
        console.print(line, highlight=False)
    console.print()


def _with_latest_rounds(state: dict[str, Any], last: int) -> dict[str, Any]:
    rounds, champion = state["rounds"], state["champion"]["round"]
    earlier = [record for record in rounds[:-last] if record["round"] == champion]
    return state | {"rounds": [*earlier, *rounds[-last:]]}


def print_table(console: Console, rows: list[dict[str, str]]) -> None:
    """Print rows whose keys are the column headings."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in rows[0]:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def print_places(console: Console, directory: Path) -> None:
    """Print where to find the campaign's report and pages."""
    from components.tracking import tracking_uri

    state = read_state(directory)
    rounds = () if state is None else state.rounds
    missing = [str(record.round) for record in rounds if record.mlflow_run_id is None]
    lacks = f"; it lacks rounds {', '.join(missing)}: `ratchet status {directory.name}` says why" if missing else ""
    store = without_password(tracking_uri(directory.parent))
    for name, place in (
        ("report", str(directory / "report.html")),
        ("MLflow", f"experiment {directory.name} in {store}{lacks}"),
        ("Prefect", "flow iterative-dpo"),
        ("look", "`make ui` starts the MLflow and Prefect pages"),
    ):
        console.print(f"{name:<8} {place}", highlight=False, soft_wrap=True)


def rounds_pages(runs: Path, mlflow: str) -> list[tuple[str, str]]:
    """Return every recorded campaign with the MLflow page that shows its rounds side by side.

    Args:
        runs: Directory that holds the campaigns' directories.
        mlflow: Address of the MLflow server.
    """
    from components.tracking import experiment_url

    recorded = {path.parent.parent.name: path for path in sorted(runs.glob("*/round-*/tracking.json"))}
    return [(campaign, experiment_url(mlflow, read_json(path)["experiment_id"])) for campaign, path in recorded.items()]
