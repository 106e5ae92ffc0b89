"""Judgements of other tools as votes on the open tasks."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from components.artifacts import digest
from components.data.forms.argilla import user_id
from components.data.forms.judged import SCORES, Judgement, judgement
from components.data.forms.judged_files import read_judged_pairs
from components.data.messages import Messages, format_messages
from components.labelling.database import opened
from components.labelling.exchange import pseudonyms
from components.labelling.invitations import NAME, check_name
from components.labelling.plan import Plan
from components.labelling.progress import open_plans, read_standing
from components.labelling.task import Vote
from components.labelling.voting import add_vote, is_closed, standing_votes

TURNED: dict[Judgement, Judgement] = {"first": "second", "second": "first", "tie": "tie", "both_bad": "both_bad"}
Key = tuple[str, frozenset[str]]
Said = tuple[str, Judgement]
"""The text of the first answer, and the judgement."""


class Import(NamedTuple):
    """What became of the judgements of a file, each person's on each pair."""

    taken: int
    """Votes that were added."""
    known: int
    """Votes of people whose vote on the item stands already."""
    foreign: int
    """Votes on what is not an item of an open task."""


def import_votes(campaign_directory: Path, source: str, *, annotator: str, now: datetime) -> Import:
    """Add the judgements of a file, in any form that is known, as votes on the open tasks. Idempotent.

    If the file says who judged, each person's votes are their own: under the name that their pseudonym stands for if
    this campaign exported it, else under `annotator` and what the file calls them.

    Args:
        campaign_directory: The campaign's directory; this host must be the page's.
        source: A source that `ratchet convert` reads.
        annotator: Under whose name they count.
        now: The time, with its zone.

    Raises:
        ValueError: The source cannot be read, or nobody can be named so.
    """
    check_name(annotator)
    said = _said_by_key(campaign_directory, source, annotator)
    taken = known = 0
    unmatched = dict(said)
    with opened(campaign_directory) as database, database.writing() as connection:
        for plan in open_plans(campaign_directory):
            if is_closed(connection, plan):
                continue
            judged = {(vote.item_id, vote.annotator) for vote in standing_votes(connection, plan)}
            for name, item in plan.items.items():
                key = _key(item.messages, item.first, item.second)
                unmatched.pop(key, None)
                for by, judgements in said.get(key, {}).items():
                    known += (name, by) in judged
                    if (name, by) not in judged:
                        add_vote(connection, plan, _vote(plan, name, _choice(judgements, item.first), by, now))
                        taken += 1
    return Import(taken=taken, known=known, foreign=sum(len(people) for people in unmatched.values()))


def _said_by_key(campaign_directory: Path, source: str, annotator: str) -> dict[Key, dict[str, list[Said]]]:
    """Return what a file says of each pair, by the name under which it counts."""
    everything = [vote for _, votes in read_standing(campaign_directory) for vote in votes]
    own: dict[str, str] = {}
    for name, stands_for in pseudonyms(campaign_directory.name, everything).items():
        own |= {stands_for: name, user_id(stands_for): name}
    said: dict[Key, dict[str, list[Said]]] = defaultdict(lambda: defaultdict(list))
    for pair in read_judged_pairs(source):
        people = said[_key(pair.messages, pair.first, pair.second)]
        for user, judged in pair.votes:
            by = annotator if user is None else own.get(user) or _imported_name(annotator, user)
            people[by].append((pair.first, judged))
    return said


def _imported_name(annotator: str, user: str) -> str:
    """Return the name of somebody whom another tool calls `user`."""
    name = f"{annotator}-{user}"
    return name if NAME.fullmatch(name) else f"{annotator[:51]}-{digest(user)[:12]}"


def _choice(said: Sequence[Said], first: str) -> Judgement:
    """Return a judgement of an item; several by nobody in particular count as one, that of their majority."""
    judgements = [judged if text == first else TURNED[judged] for text, judged in said]
    if len(judgements) == 1:
        return judgements[0]
    scores = [SCORES[judged] for judged in judgements]
    return judgement(sum(one for one, _ in scores), sum(other for _, other in scores))


def _vote(plan: Plan, item: str, choice: Judgement, annotator: str, now: datetime) -> Vote:
    at = now.astimezone(UTC).isoformat(timespec="milliseconds")
    return Vote(
        # The same file gives the same names, unless an earlier vote was taken back in the meantime.
        vote_id=str(uuid5(NAMESPACE_URL, f"{plan.name}/{item}/{annotator}/{at}")),
        item_id=item,
        annotator=annotator,
        choice=choice,
        shown_left=None,
        seconds=None,
        at=at,
        flag=None,
    )


def _key(messages: Messages, one: str, other: str) -> Key:
    return format_messages(messages), frozenset((one, other))
