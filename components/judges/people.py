"""People as a judge: it asks for their votes by a task, and gives verdicts once the task is closed.

Until then the round waits: no process can do anything for it. How people see the task, and who may vote, is the
labelling page's affair.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import NamedTuple

from components import artifacts
from components.config import JudgeSettings, PeopleConfig
from components.config.shipped import conf_path
from components.data.messages import Messages
from components.data.preference_file import load_seed_pairs
from components.judges.comparisons import Comparison, choose_comparisons, conclude_equals
from components.judges.people_votes import CountedVotes, PeopleReport, counted_votes, probabilities
from components.judges.protocol import BY, Group, Judge, JudgeContext, Opinion, Verdict, make_verdict
from components.labelling.task import (
    LABELLING,
    TASK,
    Item,
    Side,
    Task,
    Votes,
    item_id,
    read_task,
    read_votes,
    write_task,
)
from components.records import JudgeUnavailable, RoundWaits

NAME = "people"
REPORT = "people.json"
"""File in the judge's scratch directory with what is known about the people and their votes."""
MOST_GOLD = 200


class Asked(NamedTuple):
    """A comparison, and the item by which people are asked about it."""

    comparison: Comparison
    item: Item
    is_turned: bool
    """Whether the item's first answer is the comparison's second."""


class PeopleJudge:
    """Compare the responses to a prompt by the votes of people."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Take what people are asked.

        Raises:
            ValueError: The rubric or the gold pairs cannot be read.
        """
        self.name = NAME
        self._people, self._comparisons = config.people, config.comparisons
        self._scratch = context.scratch
        self._rubric, self._gold = read_rubric(config.people), gold_items(config.people)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Give a verdict on every pair that somebody voted on: all pairs, or `comparisons` per prompt.

        A pair without a vote has no verdict.

        Raises:
            RoundWaits: The votes do not suffice yet.
            JudgeUnavailable: At the deadline too few pairs had a vote.
        """
        (self._scratch / REPORT).unlink(missing_ok=True)  # of other answers or another rubric
        comparisons = [pair for group in groups for pair in choose_comparisons(group, self._comparisons)]
        asked = [_asked(pair) for pair in comparisons if not pair.is_between_equals]
        ties = [conclude_equals(self.name, pair) for pair in comparisons if pair.is_between_equals]
        if not asked:
            return ties
        task = self._task({one.item.item_id: one.item for one in asked})
        votes = self._votes(task)
        counted = counted_votes(task, votes, self._people)
        self._write(counted.report)
        return [*ties, *self._verdicts(asked, counted)]

    def _task(self, items: Mapping[str, Item]) -> Task:
        """Return the task of these items, as old as on disk if it is there, and otherwise as configured now."""
        people, round_directory = self._people, self._scratch.parents[1]
        round = int(round_directory.name.rpartition("-")[2])
        # Pairs that the round asks about are no gold questions.
        gold = [item for item in self._gold if item.item_id not in items]
        content = {"items": sorted(items), "gold": sorted(item.item_id for item in gold), "rubric": self._rubric}
        name = f"round-{round:03d}-{artifacts.digest(content)[:12]}"
        here = round_directory.parent / LABELLING / name
        is_asked = (here / TASK).exists()
        created = read_task(here).created_at if is_asked else datetime.now(UTC).isoformat(timespec="seconds")
        deadline = datetime.fromisoformat(created) + timedelta(hours=people.deadline_hours)
        task = Task(
            task=name,
            campaign=round_directory.parent.name,
            round=round,
            rubric=self._rubric,
            votes_per_item=people.votes_per_pair,
            overlap_share=people.overlap_share,
            overlap_votes=people.overlap_votes,
            gold_share=people.gold_share if gold else 0.0,
            quota=max(1, ceil(people.quota * len(items) - 1e-6)),  # 0.07 of 100 is 7.000000000000001
            # In whole seconds, as the time of closing: else a task closed at its deadline would seem open again.
            deadline=deadline.isoformat(timespec="seconds") if people.deadline_hours else None,
            created_at=created,
            items=(*(items[name] for name in sorted(items)), *gold),
        )
        write_task(round_directory.parent, task)
        return task

    def _votes(self, task: Task) -> Votes:
        """Return the votes of a closed task."""
        directory = self._scratch.parents[2] / LABELLING / task.task
        votes = read_votes(directory)
        num_asked = sum(item.gold is None for item in task.items)
        if votes is None:
            raise RoundWaits(
                f"round {task.round} of campaign {task.campaign} waits for people to vote on {task.quota} of "
                f"{num_asked} pairs{_until(task.deadline)}: `ratchet label {task.campaign}` opens the page"
            )
        asked = {item.item_id for item in task.items if item.gold is None}
        labelled = {vote.item_id for vote in votes.votes if vote.choice != "skip"} & asked
        if votes.closed != "deadline" or len(labelled) >= self._people.min_share * num_asked:
            return votes
        raise JudgeUnavailable(
            f"people voted on {len(labelled)} of {num_asked} pairs by {task.deadline}, and people.min_share = "
            f"{self._people.min_share:g} asks for more: raise `people.deadline_hours`, or lower `people.min_share` "
            "with --accept-changes"
        )

    def _verdicts(self, asked: Sequence[Asked], counted: CountedVotes) -> list[Verdict]:
        verdicts = []
        by_item = probabilities(counted.votes, self._people.aggregation)
        for (group, first, second), item, is_turned in asked:
            votes = counted.votes.get(item.item_id)
            if not votes:
                continue
            for annotator, vote in votes.items():
                opinion = Opinion(_turned(vote, is_turned), counted.flags.get((item.item_id, annotator), ""))
                verdicts.append(
                    make_verdict(self.name, group, first, opinion, opponent_id=second, part=f"{BY}{annotator}")
                )
            for_first = sum(_turned(vote, is_turned) for vote in votes.values())
            opinion = Opinion(
                _turned(by_item[item.item_id], is_turned), f"{for_first:g} of {len(votes)} votes for the first"
            )
            verdicts.append(make_verdict(self.name, group, first, opinion, opponent_id=second))
        return verdicts

    def _write(self, report: PeopleReport) -> None:
        self._scratch.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(self._scratch / REPORT, report)


def _asked(comparison: Comparison) -> Asked:
    first, second = sorted(comparison.texts)
    messages = comparison.group.messages
    item = Item(
        item_id=item_id(messages, first, second),
        messages=messages,
        first=first,
        second=second,
        tag=comparison.group.tag,
    )
    return Asked(comparison, item, is_turned=comparison.texts != (first, second))


def _until(deadline: str | None) -> str:
    """Return until when people may vote, as part of a sentence. Only the page, which has the votes, closes a task."""
    if deadline is None:
        return ""
    if datetime.fromisoformat(deadline) > datetime.now(UTC):
        return f", until {deadline}"
    return f" and for the page, which must run, to close them: it was due at {deadline}"


def _turned(vote: float, is_turned: bool) -> float:
    return 1.0 - vote if is_turned else vote


def read_rubric(people: PeopleConfig) -> str:
    """Return what annotators go by.

    Raises:
        ValueError: It cannot be read, or is empty.
    """
    path = conf_path("judges/people.md") if people.rubric == NAME else Path(people.rubric)
    try:
        rubric = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"people.rubric = {people.rubric} cannot be read ({error}): name a Markdown file") from None
    if not rubric:
        raise ValueError(f"people.rubric = {people.rubric} is empty: write what people should go by")
    return rubric


def gold_items(people: PeopleConfig) -> list[Item]:
    """Return the questions whose answers are known, at most `MOST_GOLD`, chosen by content.

    Raises:
        ValueError: The file cannot be read or has no pair with a known answer.
    """
    if not people.gold:
        return []
    items: dict[str, Item] = {}
    for pair in load_seed_pairs(people.gold, split="train").pairs:
        if pair.chosen is None or pair.rejected is None:
            continue
        first, second = sorted([pair.chosen, pair.rejected])
        if first != second and pair.better is not None:
            name = item_id(pair.messages, first, second)
            better: Side = "first" if pair.better == first else "second"
            items[name] = Item(
                item_id=name, messages=pair.messages, first=first, second=second, tag=pair.tag, gold=better
            )
    if not items:
        raise ValueError(f"people.gold = {people.gold} has no pair with a known better answer: name another file")
    return [items[name] for name in sorted(items)[:MOST_GOLD]]


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that waits for people."""
    return PeopleJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge: what people read and are asked, and which of their votes count."""
    people = config.people
    asked = people.model_dump(mode="json", exclude={*PeopleConfig.FREE_TO_CHANGE, "rubric", "gold", "checks_judge"})
    gold = [(item.item_id, item.gold) for item in gold_items(people)]
    return artifacts.digest({"people": asked, "rubric": read_rubric(people), "gold": gold})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the rubric and the gold pairs.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    read_rubric(config.people)
    gold_items(config.people)
