"""A study on the terminal: its arms as a table, and what it shows."""

from rich.console import Console

from components.report.wording import decimal, duration
from components.study.files import Results, study_directory
from components.study.report import PLACES, REPORT, findings, spread
from flows.terminal.rounds import print_table

HEADINGS = {"reward": "reward", "kl": "KL", "tokens": "tokens"}
"""Measures whose intervals are left to the report, since a terminal has no room for them."""


def print_study(console: Console, results: Results) -> None:
    """Print a row for each arm, what the study shows, and where its report is."""
    rows = []
    for arm in results.arms:
        row = {"arm": arm.arm, "seeds": str(len(arm.seeds)), "wins vs start": spread(arm.measures["win_rate"], 3)}
        means = {name: arm.measures[name].value if name in arm.measures else None for name in HEADINGS}
        row |= {HEADINGS[name]: decimal(mean, PLACES[name]) for name, mean in means.items()}
        rows.append(row | {"time": duration(arm.measures["seconds"].value)})
    print_table(console, rows)
    for line in findings(results):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for arm in results.arms:
        if arm.budget is not None:
            console.print(f"{arm.arm}: its budget is {arm.budget}", highlight=False, soft_wrap=True, markup=False)
    report = study_directory(results.config.study) / REPORT
    console.print(f"report   {report}", highlight=False, soft_wrap=True, markup=False)
