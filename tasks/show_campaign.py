"""Task: show a campaign to people: its report, and its rounds as a table on the Prefect page."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from components.campaign.state import State
from components.report.campaign import write_report
from components.report.round import escape_markdown
from components.report.tables import decisions, round_rows
from tasks.record_round import artifact_key, mlflow_links

SHOWN_ROUNDS = 50


@task(name="show_campaign", cache_policy=NO_CACHE)
def show_campaign(directory: Path, state: State) -> Path:
    """Write the report, publish the table, and return the report's path."""
    path = write_report(directory)
    rounds: dict[str, Any] = state.model_copy(update={"rounds": state.rounds[-SHOWN_ROUNDS:]}).model_dump(mode="json")
    if state.rounds:
        name, report = escape_markdown(directory.name), escape_markdown(str(path))
        heading = f"The latest rounds of {name}; the report is {report}.{mlflow_links(directory)}"
        reasons = "\n".join(f"- {escape_markdown(line)}" for line in decisions(rounds))
        create_table_artifact(
            [dict(row) for row in round_rows(rounds)],
            key=artifact_key(directory.name, "rounds"),
            description=f"{heading}\n\n{reasons}",
        )
    return path
