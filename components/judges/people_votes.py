"""Which votes of people count, what is known about the people, and what their votes say. Knows no file."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from components.config import PeopleConfig
from components.judges.votes import PairKey, aggregate_votes
from components.labelling.task import Task, Vote, Votes
from components.records import Interval, Record
from components.statistics import agreement
from components.statistics.intervals import share

SHARES = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.5}
"""By choice, the share of the vote that the first answer gets; a skip is no vote."""
CONFIDENCE = 0.95
MANY_PEOPLE, MANY_VOTES, MANY_PER_PAIR = 3, 20, 3
"""From when on there are enough votes to estimate how reliable each person is."""


class Annotator(Record):
    """What is known about one person's votes on a task."""

    votes: int
    """Votes on the round's pairs, skips left out."""
    skips: int
    gold: Interval | None
    """Share of right answers to gold questions; None if none was answered."""
    is_counted: bool
    """Whether the votes count: the share of right answers may be as high as `people.min_gold_accuracy`."""
    median_seconds: float | None
    left_share: Interval | None
    """Share of the decided votes for the answer on the left, which says nothing if people read both; None if nothing
    was decided on the page."""
    agreement: Interval | None
    """How often the others who voted on the same pairs preferred the same answer; None if nobody did."""


class PeopleReport(Record):
    """What is known about the people of a task, and about their votes."""

    task: str
    closed: str
    """`quota`, `deadline` or `by_hand`."""
    closed_at: str
    asked: int
    """Pairs that people were asked about."""
    labelled: int
    """Pairs with a vote that counts."""
    both_bad: int
    """Votes for neither answer; they count as ties."""
    flagged: int
    aggregation: str
    """`majority` or `dawid_skene`."""
    annotators: dict[str, Annotator]
    agreement: Interval | None
    """How often two people who both decided prefer the same answer."""
    krippendorff_alpha: float | None


class CountedVotes(NamedTuple):
    """The votes that count, by item and annotator."""

    votes: dict[str, dict[str, float]]
    flags: dict[tuple[str, str], str]
    """What an annotator reported about an item."""
    report: PeopleReport


def counted_votes(task: Task, votes: Votes, people: PeopleConfig) -> CountedVotes:
    """Leave out the votes of people who surely answer too few gold questions right, and describe everybody.

    Args:
        task: What was asked.
        votes: What was answered.
        people: Limits and aggregation.
    """
    gold = {item.item_id: item.gold for item in task.items if item.gold is not None}
    asked = {item.item_id for item in task.items if item.gold is None}
    by_annotator: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes.votes:
        by_annotator[vote.annotator].append(vote)
    accuracies = {name: _gold_accuracy(cast, gold) for name, cast in by_annotator.items()}
    left_out = {
        name for name, right in accuracies.items() if right is not None and right.high < people.min_gold_accuracy
    }
    every = _table((vote for vote in votes.votes), asked)
    table = {
        item: kept
        for item, cast in every.items()
        if (kept := {name: vote for name, vote in cast.items() if name not in left_out})
    }
    annotators = {
        name: _annotator(name, cast, every, asked, gold=accuracies[name], is_counted=name not in left_out)
        for name, cast in sorted(by_annotator.items())
    }
    counted = [vote for vote in votes.votes if vote.item_id in asked and vote.annotator not in left_out]
    report = PeopleReport(
        task=task.task,
        closed=votes.closed,
        closed_at=votes.closed_at,
        asked=len(asked),
        labelled=len(table),
        both_bad=sum(vote.choice == "both_bad" for vote in counted),
        flagged=sum(vote.flag is not None for vote in votes.votes),
        aggregation=chosen_aggregation(table, people.aggregation),
        annotators=annotators,
        agreement=agreement.agreement_among(table, seed=0),
        krippendorff_alpha=agreement.krippendorff_alpha(table),
    )
    flags = {(vote.item_id, vote.annotator): f"flagged: {vote.flag}" for vote in counted if vote.flag is not None}
    return CountedVotes(table, flags, report)


def probabilities(votes: Mapping[str, Mapping[str, float]], aggregation: str) -> dict[str, float]:
    """Return by item the probability that its first answer is better.

    Args:
        votes: By item and annotator.
        aggregation: As `people.aggregation`.
    """
    method = chosen_aggregation(votes, aggregation)
    keyed = {PairKey(item, 0, 1): cast for item, cast in votes.items()}
    weights = {name: 1.0 for cast in votes.values() for name in cast}
    by_pair = aggregate_votes(method, keyed, weights)
    return {pair.prompt_id: probability for pair, probability in by_pair.items()}


def chosen_aggregation(votes: Mapping[str, Mapping[str, float]], aggregation: str) -> str:
    """Return the method that `auto` means for these votes, or the one that is named."""
    if aggregation != "auto":
        return aggregation
    counts: defaultdict[str, int] = defaultdict(int)
    for cast in votes.values():
        for name in cast:
            counts[name] += 1
    busy = sum(count >= MANY_VOTES for count in counts.values())
    per_pair = median([len(cast) for cast in votes.values()]) if votes else 0
    return "dawid_skene" if busy >= MANY_PEOPLE and per_pair >= MANY_PER_PAIR else "majority"


def _table(votes: Iterable[Vote], asked: set[str]) -> dict[str, dict[str, float]]:
    """Return the votes on the round's pairs in the order of the pairs' names; a person's last vote on one counts."""
    table: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for vote in votes:
        if vote.item_id in asked and vote.choice in SHARES:
            table[vote.item_id][vote.annotator] = SHARES[vote.choice]
    return {item: dict(sorted(table[item].items())) for item in sorted(table)}


def _gold_accuracy(votes: Sequence[Vote], gold: Mapping[str, str]) -> Interval | None:
    answered = [vote for vote in votes if vote.item_id in gold and vote.choice != "skip"]
    if not answered:
        return None
    right = sum(vote.choice == gold[vote.item_id] for vote in answered)
    return share(right, len(answered), confidence=CONFIDENCE)


def _annotator(
    name: str,
    votes: Sequence[Vote],
    table: Mapping[str, Mapping[str, float]],
    asked: set[str],
    *,
    gold: Interval | None,
    is_counted: bool,
) -> Annotator:
    own = [vote for vote in votes if vote.item_id in asked]
    decided = [vote for vote in own if vote.choice in ("first", "second") and vote.shown_left is not None]
    seconds = [vote.seconds for vote in own if vote.seconds is not None]
    own_votes = {item: cast[name] for item, cast in table.items() if name in cast}
    others = {item: {other: vote for other, vote in table[item].items() if other != name} for item in own_votes}
    return Annotator(
        votes=len(own_votes),
        skips=sum(vote.choice == "skip" for vote in own),
        gold=gold,
        is_counted=is_counted,
        median_seconds=median(seconds) if seconds else None,
        left_share=share(sum(vote.choice == vote.shown_left for vote in decided), len(decided), confidence=CONFIDENCE)
        if decided
        else None,
        agreement=agreement.agreement_with(others, own_votes, seed=0),
    )
