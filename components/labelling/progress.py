"""How far a campaign's tasks are, and close those that are due: what the round and the commands ask this room for."""

import statistics
from collections import defaultdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from components.artifacts import write_json
from components.labelling.database import Database, looked_at, opened
from components.labelling.plan import Plan, read_plan
from components.labelling.task import LABELLING, TASK, VOTES, Vote, Votes, read_votes, tasks_of
from components.labelling.voting import standing_votes
from components.records import Record

Reason = Literal["quota", "deadline", "by_hand"]


class TaskProgress(Record):
    """How far a task is."""

    task: str
    round: int
    labelled: int
    """Items besides gold questions that have all of their votes."""
    quota: int
    votes: int
    """Votes that stand, skips and gold questions too."""
    annotators: int
    """People who gave them."""
    deadline: str | None
    closed: Reason | None
    """None while the task is open."""


class AnnotatorFigures(Record):
    """What one annotator did in a campaign's tasks."""

    annotator: str
    votes: int
    skips: int
    flags: int
    seconds_per_item: float | None
    """Median of the seconds that the page was visible; None if all votes are of another tool."""
    gold_seen: int
    gold_right: int


def read_progress(campaign_directory: Path, *, round: int | None = None) -> list[TaskProgress]:
    """Return how far each task of a campaign is. Changes nothing.

    Args:
        campaign_directory: The campaign's directory.
        round: Round of the tasks; None takes those of every round.
    """
    read = read_standing(campaign_directory, round=round)
    return [_progress(plan, read_votes(plan.directory), votes) for plan, votes in read]


def read_annotators(campaign_directory: Path) -> list[AnnotatorFigures]:
    """Return what each annotator did, by name. A tie on a gold question is a wrong answer."""
    votes_by: dict[str, list[tuple[Vote, str | None]]] = defaultdict(list)
    for plan, votes in read_standing(campaign_directory):
        for vote in votes:
            votes_by[vote.annotator].append((vote, plan.gold.get(vote.item_id)))
    return [_figures(annotator, votes_by[annotator]) for annotator in sorted(votes_by)]


def close_due(campaign_directory: Path, now: datetime) -> list[str]:
    """Publish the votes of the tasks whose quota is reached or whose deadline has passed. Idempotent.

    Args:
        campaign_directory: The campaign's directory; this host must be the page's.
        now: The time, with its zone.

    Returns:
        Names of the tasks whose votes were published by this call.
    """
    if not open_plans(campaign_directory):
        return []
    due: list[tuple[Plan, Reason]] = []
    with looked_at(campaign_directory) as connection:
        closings = () if connection is None else connection.execute("SELECT task FROM closings").fetchall()
    begun = {row["task"] for row in closings} - _open_again(campaign_directory)
    for plan, votes in read_standing(campaign_directory, only_open=True):
        labelled = plan.labelled(votes)
        if labelled >= plan.task.quota:
            due.append((plan, "quota"))
        elif plan.is_overdue(now):
            due.append((plan, "deadline"))
        elif plan.name in begun:  # a crash came between closing it and publishing its votes
            due.append((plan, "by_hand"))
    return _close(campaign_directory, due, now)


def _open_again(campaign_directory: Path) -> set[str]:
    """Return the tasks that closed at a deadline which the round has moved since, and forget that they did."""
    names = {plan.name for plan in open_plans(campaign_directory) if (plan.directory / VOTES).exists()}
    if names:
        with opened(campaign_directory) as database, database.writing() as connection:
            connection.executemany("DELETE FROM closings WHERE task = ?", [(name,) for name in sorted(names)])
        for name in names:
            (campaign_directory / LABELLING / name / VOTES).unlink(missing_ok=True)
    return names


def close_by_hand(campaign_directory: Path, now: datetime) -> list[str]:
    """Publish the votes of all open tasks, and return the tasks' names.

    Raises:
        ValueError: Nobody has voted on one of them: closed tasks take no votes, and the round could never go on.
    """
    closed = close_due(campaign_directory, now)
    others: list[tuple[Plan, Reason]] = []
    for plan, votes in read_standing(campaign_directory, only_open=True):
        if not any(vote.item_id in plan.needed and vote.choice != "skip" for vote in votes):
            raise ValueError(
                f"nobody has voted on {plan.name}, and its round cannot go on without a vote: let people vote, or set "
                "another judge and start with --accept-changes"
            )
        others.append((plan, "by_hand"))
    return closed + _close(campaign_directory, others, now)


def plans_of(campaign_directory: Path, *, round: int | None = None) -> list[Plan]:
    """Return the campaign's tasks, by their rounds; those of one round, if it is given.

    Raises:
        ValueError: One is damaged.
    """
    tasks = tasks_of(campaign_directory, round=round)
    return [read_plan(campaign_directory / LABELLING / task.task) for task in tasks]


def open_plans(campaign_directory: Path) -> list[Plan]:
    """Return the tasks whose votes are not published, or whose deadline was moved since. Reads no other task.

    Raises:
        ValueError: One is damaged.
    """
    paths = [path.parent for path in (campaign_directory / LABELLING).glob(f"*/{TASK}")]
    plans = [read_plan(path) for path in paths if _is_open(path)]
    return sorted(plans, key=lambda plan: (plan.task.round, plan.name))


def _is_open(directory: Path) -> bool:
    votes = directory / VOTES
    if not votes.exists():
        return True
    # The page asks every two seconds, and votes may be many. Which file is newer says nothing: clocks are set back.
    return _is_moved(directory, (directory / TASK).stat().st_mtime_ns, votes.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _is_moved(directory: Path, task_modified: int, votes_modified: int) -> bool:
    return read_votes(directory) is None


def labelled_of_open(campaign_directory: Path) -> dict[str, int]:
    """Return how many items have all of their votes, by the name of each open task."""
    read = read_standing(campaign_directory, only_open=True)
    return {plan.name: plan.labelled(votes) for plan, votes in read}


def publish(database: Database, plan: Plan, reason: Reason, now: datetime) -> None:
    """Close a task for good and write its votes. A task that was closed before a crash keeps its reason and time."""
    with database.writing() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO closings VALUES (?, ?, ?)",
            (plan.name, reason, now.astimezone(UTC).isoformat(timespec="seconds")),
        )
        connection.execute("DELETE FROM leases WHERE task = ?", (plan.name,))
        row = connection.execute("SELECT closed, closed_at FROM closings WHERE task = ?", (plan.name,)).fetchone()
        votes = standing_votes(connection, plan)
    # The closing is on the disk: no vote comes after these.
    write_json(plan.directory / VOTES, Votes(task=plan.name, **row, votes=votes))


def _close(campaign_directory: Path, due: list[tuple[Plan, Reason]], now: datetime) -> list[str]:
    if not due:
        return []
    with opened(campaign_directory) as database:
        for plan, reason in due:
            publish(database, plan, reason, now)
    return [plan.name for plan, _ in due]


def read_standing(
    campaign_directory: Path, *, only_open: bool = False, round: int | None = None
) -> list[tuple[Plan, tuple[Vote, ...]]]:
    """Return the tasks with the votes that stand: the open ones, those of a round, or all."""
    plans = open_plans(campaign_directory) if only_open else plans_of(campaign_directory, round=round)
    if not plans:
        return []
    with looked_at(campaign_directory) as connection:
        read = []
        for plan in plans:
            published = read_votes(plan.directory)
            if published is not None:
                read.append((plan, published.votes))
            else:
                read.append((plan, standing_votes(connection, plan) if connection is not None else ()))
    return read


def _progress(plan: Plan, published: Votes | None, votes: tuple[Vote, ...]) -> TaskProgress:
    return TaskProgress(
        task=plan.name,
        round=plan.task.round,
        labelled=plan.labelled(votes),
        quota=plan.task.quota,
        votes=len(votes),
        annotators=len({vote.annotator for vote in votes}),
        deadline=plan.task.deadline,
        closed=published.closed if published is not None else None,
    )


def _figures(annotator: str, votes: list[tuple[Vote, str | None]]) -> AnnotatorFigures:
    seconds = [vote.seconds for vote, _ in votes if vote.seconds is not None]
    gold = [(vote.choice, answer) for vote, answer in votes if answer is not None and vote.choice != "skip"]
    return AnnotatorFigures(
        annotator=annotator,
        votes=len(votes),
        skips=sum(vote.choice == "skip" for vote, _ in votes),
        flags=sum(vote.flag is not None for vote, _ in votes),
        seconds_per_item=statistics.median(seconds) if seconds else None,
        gold_seen=len(gold),
        gold_right=sum(choice == answer for choice, answer in gold),
    )
