"""Task: show a finished round to people: MLflow, the report, a Prefect artifact. Nothing that trains depends on it."""

import hashlib
import logging
import re
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from components.artifacts import read_json, write_json
from components.campaign.config import config_of_round
from components.campaign.files import NOT_RECORDED, TRACKING, not_recorded, read_campaign
from components.campaign.state import note_mlflow_run, read_state, round_directory
from components.report.campaign import write_report
from components.report.round import escape_markdown, round_markdown
from components.report.tables import decisions

SHOWN_TOGETHER = 10
"""Latest rounds that a link sets side by side; an address and a screen have room for no more."""


UNRECORDED = "NotRecorded"
"""Name of the task's state on the Prefect page if MLflow did not take the round."""

# Records of this logger reach the terminal, the campaign's log file and the page of the run.
log = logging.getLogger("components.tracking")


@task(name="record_round", cache_policy=NO_CACHE)
def record_round(directory: Path, round: int) -> State | None:
    """Record a finished round in MLflow, write the report again and publish the round's markdown.

    If MLflow does not take it, a later start records the round there; nothing else changes.

    Returns:
        None, or a state named NotRecorded that says why.
    """
    problem = ship_to_mlflow(directory, round)
    write_report(directory)
    markdown = round_markdown(directory, round) + mlflow_links(directory)
    key = artifact_key(directory.name, f"round-{round:03d}")
    description = escape_markdown(f"{directory.name}, {_decision(directory, round)}")
    create_markdown_artifact(markdown, key=key, description=description)
    return None if problem is None else Completed(name=UNRECORDED, message=problem)


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


def ship_to_mlflow(directory: Path, round: int) -> str | None:
    """Record a round in MLflow and its run's id in campaign.json, and log why if that fails. Idempotent.

    Returns:
        Why MLflow does not have the round; None if it has.
    """
    from components.tracking import TrackingRefused, TrackingUnavailable
    from components.tracking import record_round as track

    state = read_state(directory)
    assert state is not None
    record = next(record for record in state.rounds if record.round == round)
    tracking = read_campaign(directory).config.tracking
    try:
        tracked = track(directory, record, config=config_of_round(directory, round), tracking=tracking)
    except TrackingUnavailable as error:
        may_pass = not isinstance(error, TrackingRefused)
        write_json(directory / NOT_RECORDED, {"cause": str(error), "may_pass": may_pass})
        problem = not_recorded(directory, state)
        log.warning("%s", problem)
        return problem
    write_json(round_directory(directory, round) / TRACKING, tracked)
    note_mlflow_run(directory, round, tracked.run_id)
    if all(other.mlflow_run_id for other in state.rounds if other is not record):
        (directory / NOT_RECORDED).unlink(missing_ok=True)
    return None


def refuse_taken_name(directory: Path) -> None:
    """Refuse the first start of a campaign whose name another campaign has in a shared MLflow.

    Raises:
        ValueError: Another campaign has the name.
    """
    from components.tracking import NameTaken, TrackingUnavailable
    from components.tracking import refuse_taken_name as refuse

    try:
        refuse(directory)
    except NameTaken as error:
        raise ValueError(str(error)) from None
    except TrackingUnavailable as error:
        log.warning("%s", error)


def mlflow_links(directory: Path) -> str:
    """Return what MLflow lacks, and links to its pages of the campaign's rounds, as Markdown.

    There are no links if MLflow is a database without pages, or has no round yet.
    """
    from components.tracking import compare_url, experiment_url, is_server, tracking_uri

    state = read_state(directory)
    assert state is not None, directory
    problem = not_recorded(directory, state)
    missing = "" if problem is None else f"\n\n{escape_markdown(problem)}\n"
    uri = tracking_uri(directory.parent)
    if not is_server(uri):
        return missing
    tracked = [read_json(path) for path in sorted(directory.glob(f"round-*/{TRACKING}"))[-SHOWN_TOGETHER:]]
    if not tracked:
        return missing
    experiment = tracked[-1]["experiment_id"]
    side_by_side = f"[The rounds side by side in MLflow]({experiment_url(uri, experiment)})"
    compare = compare_url(uri, experiment, [run["run_id"] for run in tracked])
    return f"{missing}\n\n{side_by_side}, [compared]({compare})\n"
