"""Votes as preference pairs for other tools, and pairs that others labelled as votes."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from components.data.forms.convert import Conversion, convert
from components.data.forms.registry import FORMS
from components.data.forms.votes import pairs_by_votes
from components.data.messages import Messages, format_messages
from components.data.preference_file import load_seed_pairs
from components.data.row_files import write_rows
from components.data.seed_pair import SeedPair
from components.labelling.database import opened
from components.labelling.invitations import check_name
from components.labelling.plan import Plan
from components.labelling.progress import open_plans, read_standing
from components.labelling.task import Choice, Vote
from components.labelling.voting import add_vote, is_closed, standing_votes

SCORES: dict[Choice, dict[str, float]] = {
    "first": {"first": 1.0, "second": 0.0},
    "second": {"first": 0.0, "second": 1.0},
    "tie": {"first": 0.5, "second": 0.5},
    "both_bad": {"first": 0.0, "second": 0.0},
}
"""What a choice says about both answers; to skip says nothing."""


class Import(NamedTuple):
    """What became of the pairs of a file."""

    taken: int
    """Votes that were added."""
    known: int
    """Pairs on whose item this annotator's vote stands already."""
    foreign: int
    """Pairs that are no item of an open task."""


def labelled_pairs(campaign_directory: Path) -> list[SeedPair]:
    """Return a pair per item that people judged, without gold questions; p is the share of the votes for chosen."""
    pairs: list[SeedPair] = []
    for plan, votes in read_standing(campaign_directory):
        for name in plan.needed:
            item = plan.items[name]
            scores = [SCORES[vote.choice] for vote in votes if vote.item_id == name and vote.choice != "skip"]
            answers = {"first": item.first, "second": item.second}
            if scores:
                pairs += pairs_by_votes(
                    item.messages, answers, scores, "best_worst", place=f"item {name}", tag=item.tag
                )
    return pairs


def export_pairs(campaign_directory: Path, out: Path, *, target: str) -> Conversion:
    """Write what people judged in a published form; what the form cannot hold is counted.

    Args:
        campaign_directory: The campaign's directory.
        out: File to write; its suffix says how, as in `ratchet convert`.
        target: Name of the form.

    Raises:
        ValueError: Nobody has judged anything, the form is not known, or no pair fits it.
    """
    pairs = labelled_pairs(campaign_directory)
    if not pairs:
        raise ValueError(f"{campaign_directory.name} has no votes yet: look at `ratchet label --status`")
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "votes.jsonl"
        write_rows(source, (row for pair in pairs for row in FORMS["ratchet"].write(pair)))
        return convert(str(source), out, target=target, source_form="ratchet", unfit="skip")


def import_votes(campaign_directory: Path, source: str, *, annotator: str, now: datetime) -> Import:
    """Add the pairs of a file, in any form that is known, as one annotator's votes on the open tasks. Idempotent.

    Args:
        campaign_directory: The campaign's directory; this host must be the page's.
        source: A source that `ratchet convert` reads.
        annotator: Under whose name they count.
        now: The time, with its zone.

    Raises:
        ValueError: The source cannot be read, or nobody can be named so.
    """
    check_name(annotator)
    labels = {}
    for pair in load_seed_pairs(source, split="train").pairs:
        if not pair.is_single:
            assert pair.chosen is not None
            assert pair.rejected is not None
            labels[_key(pair.messages, pair.chosen, pair.rejected)] = pair
    taken = known = 0
    with opened(campaign_directory) as database, database.writing() as connection:
        for plan in open_plans(campaign_directory):
            if is_closed(connection, plan):
                continue
            judged = {vote.item_id for vote in standing_votes(connection, plan) if vote.annotator == annotator}
            for name, item in plan.items.items():
                label = labels.get(_key(item.messages, item.first, item.second))
                if label is None:
                    continue
                known += name in judged
                if name not in judged:
                    add_vote(connection, plan, _vote(plan, name, label, annotator, now))
                    taken += 1
    return Import(taken=taken, known=known, foreign=len(labels) - taken - known)


def _vote(plan: Plan, item: str, pair: SeedPair, annotator: str, now: datetime) -> Vote:
    is_first = pair.better == plan.items[item].first
    at = now.astimezone(UTC).isoformat(timespec="milliseconds")
    return Vote(
        # The same file gives the same names, unless an earlier vote was taken back in the meantime.
        vote_id=str(uuid5(NAMESPACE_URL, f"{plan.name}/{item}/{annotator}/{at}")),
        item_id=item,
        annotator=annotator,
        choice="tie" if pair.is_tie else "first" if is_first else "second",
        shown_left=None,
        seconds=None,
        at=at,
        flag=None,
    )


def _key(messages: Messages, one: str, other: str) -> tuple[str, frozenset[str]]:
    return format_messages(messages), frozenset((one, other))
