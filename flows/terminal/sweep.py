"""A sweep on the terminal: its best trials, what mattered, and whether the winner is better."""

from rich.console import Console

from components.report.wording import decimal
from components.sweep.files import WINNER_FILE, SweepResults, sweep_directory
from components.sweep.report import REPORT, value_text, verdict
from flows.terminal.rounds import print_table

SHOWN_TRIALS = 5


def print_sweep(console: Console, results: SweepResults) -> None:
    """Print the best trials, what each parameter explains, the verdict, and where the files are."""
    done = [trial for trial in results.trials if trial.value is not None]
    best = sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))[:SHOWN_TRIALS]
    rows = [
        {"trial": str(trial.number)}
        | {key.rpartition(".")[2]: value_text(value) for key, value in trial.values.items()}
        | {"reached": decimal(trial.value, 3)}
        for trial in best
    ]
    print_table(console, rows)
    directory = sweep_directory(results.config.sweep)
    failed = sum(trial.state == "failed" for trial in results.trials)
    lines = [f"{key} explains {share:.0%} of the differences" for key, share in results.importances.items()]
    lines += [f"{failed} of {len(results.trials)} trials failed; the report says why"] if failed else []
    lines += [verdict(results), f"winner   {directory / WINNER_FILE}", f"report   {directory / REPORT}"]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
