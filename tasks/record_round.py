"""Task: show a finished round to people: MLflow, the report, a Prefect artifact. Nothing that trains depends on it."""

import hashlib
import re
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from components.artifacts import read_json, write_json
from components.campaign.files import TRACKING
from components.campaign.state import note_mlflow_run, read_state, round_directory
from components.report.campaign import write_report
from components.report.round import escape_markdown, round_markdown
from components.report.tables import decisions
from components.runtime.provenance import git_sha

SHOWN_TOGETHER = 10
"""Latest rounds that a link sets side by side; an address and a screen have room for no more."""


@task(name="record_round", cache_policy=NO_CACHE)
def record_round(directory: Path, round: int) -> None:
    """Record a finished round in MLflow, write the report again and publish the round's markdown.

    If MLflow is unavailable, a later start records the round there; nothing else changes.
    """
    ship_to_mlflow(directory, round)
    write_report(directory)
    markdown = round_markdown(directory, round) + mlflow_links(directory)
    key = artifact_key(directory.name, f"round-{round:03d}")
    description = escape_markdown(f"{directory.name}, {_decision(directory, round)}")
    create_markdown_artifact(markdown, key=key, description=description)


def _decision(directory: Path, round: int) -> str:
    state = read_state(directory)
    assert state is not None, directory
    only = tuple(record for record in state.rounds if record.round == round)
    return decisions(state.model_copy(update={"rounds": only}).model_dump(mode="json"))[0]


def artifact_key(*names: str) -> str:
    """Return a key that Prefect accepts for an artifact: lower-case letters, digits and dashes.

    A name that this changes, such as My.Model, gets a few digits of its hash: my_model has another page.
    """
    name = "-".join(names)
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return key if key == name else f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def ship_to_mlflow(directory: Path, round: int) -> bool:
    """Record a round in MLflow and its run's id in campaign.json. Idempotent.

    Returns:
        Whether MLflow has the round now; False if it is unavailable.
    """
    from components.tracking import TrackingUnavailable
    from components.tracking import record_round as track

    state = read_state(directory)
    assert state is not None
    record = next(record for record in state.rounds if record.round == round)
    try:
        tracked = track(directory, round, config=read_json(directory / "config.json"), record=record, git_sha=git_sha())
    except TrackingUnavailable as error:
        get_run_logger().warning("%s; the campaign's next start records round %d there", error, round)
        return False
    write_json(round_directory(directory, round) / TRACKING, tracked)
    note_mlflow_run(directory, round, tracked.run_id)
    return True


def mlflow_links(directory: Path) -> str:
    """Return links to MLflow's pages of the campaign's rounds, as Markdown.

    Empty if MLflow is a database without pages, or has no round yet.
    """
    from components.tracking import compare_url, experiment_url, is_server, tracking_uri

    uri = tracking_uri(directory.parent)
    if not is_server(uri):
        return ""
    tracked = [read_json(path) for path in sorted(directory.glob(f"round-*/{TRACKING}"))[-SHOWN_TOGETHER:]]
    if not tracked:
        return ""
    experiment = tracked[-1]["experiment_id"]
    compare = compare_url(uri, experiment, [run["run_id"] for run in tracked])
    return f"\n\n[The rounds side by side in MLflow]({experiment_url(uri, experiment)}), [compared]({compare})\n"
