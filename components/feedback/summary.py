"""What the thumbs of a campaign say, in numbers: by kind, by model, and champion against challenger. Pure."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from components.feedback.selection import by_kind
from components.feedback.store import Thumb
from components.records import Interval, Record
from components.statistics.intervals import share, share_difference

CONFIDENCE = 0.95


class Counts(NamedTuple):
    """Numbers of rows."""

    total: int
    kinds: dict[str, int]
    """`up`, `down` and `correction`."""
    unused: int
    """Rows that no round took or set aside, and whose texts are there."""
    erased: int
    """Rows whose texts are deleted."""
    unserved: int
    """Rows about answers of which the gateway does not know that it sent them."""
    models: dict[str, dict[str, int]]
    """The kinds by model."""


def count(rows: Sequence[Thumb], taken: Collection[str]) -> Counts:
    """Count the rows of a campaign.

    Args:
        rows: All rows.
        taken: Ids of rows that rounds took or set aside.
    """
    models = sorted({_model(row) for row in rows})
    return Counts(
        total=len(rows),
        kinds=by_kind(rows),
        unused=sum(row.row_id not in taken and row.erased_at is None for row in rows),
        erased=sum(row.erased_at is not None for row in rows),
        unserved=sum(not row.served for row in rows),
        models={model: by_kind(row for row in rows if _model(row) == model) for model in models},
    )


def _model(row: Thumb) -> str:
    if row.round is None:
        return "not known to be ours"
    return f"round {row.round}" if row.round else "the start model"


class ArmThumbs(Record):
    """What users said of one of two models that were served side by side."""

    round: int
    up: int
    """Conversations whose latest thumb is up."""
    conversations: int
    """Conversations with a thumb."""
    share_up: Interval | None
    """None without a thumb."""


class CanaryThumbs(Record):
    """Champion and challenger in the words of users."""

    champion: ArmThumbs
    challenger: ArmThumbs
    difference: Interval | None
    """By how much the challenger's share of thumbs up exceeds the champion's; None if one has no thumb."""


def compare_arms(rows: Iterable[Thumb], *, champion: int, challenger: int) -> CanaryThumbs:
    """Compare the thumbs that two rounds got while both were served.

    A conversation counts once, by its latest thumb: several thumbs of one user are not several users.
    """
    latest: dict[str, Thumb] = {}
    for row in rows:
        if row.served and row.arm is not None and (row.arm, row.round) in _arms(champion, challenger):
            latest[row.conversation_id] = row
    arms = {}
    for arm, round in _arms(champion, challenger):
        thumbs = Counter(row.thumb for row in latest.values() if row.arm == arm)
        total = thumbs.total()
        arms[arm] = ArmThumbs(
            round=round,
            up=thumbs["up"],
            conversations=total,
            share_up=share(thumbs["up"], total, confidence=CONFIDENCE) if total else None,
        )
    new, old = arms["challenger"], arms["champion"]
    difference = None
    if new.conversations and old.conversations:
        difference = share_difference((new.up, new.conversations), (old.up, old.conversations), confidence=CONFIDENCE)
    return CanaryThumbs(champion=old, challenger=new, difference=difference)


def _arms(champion: int, challenger: int) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("champion", champion), ("challenger", challenger)


def latest_pair(rows: Sequence[Thumb]) -> tuple[int, int] | None:
    """Return champion and challenger of the canary that got a thumb last; None if there was none."""
    for row in reversed(rows):
        if row.arm == "challenger" and row.round is not None:
            before = [other.round for other in rows if other.arm == "champion" and other.round not in (None, row.round)]
            return (before[-1], row.round) if before and before[-1] is not None else None
    return None
