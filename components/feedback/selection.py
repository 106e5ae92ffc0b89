"""Choose the thumbs that a round takes. Pure; knows no store and no file."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from components.checks.personal_data import find_personal_data
from components.checks.secrets import find_secrets
from components.config import FeedbackConfig
from components.data.messages import message_text, parse_messages
from components.feedback.store import Thumb

CUT = "length"
"""Finish reason of an answer that the length limit cut."""


class Quarantined(NamedTuple):
    """A thumb that must not be trained on."""

    row_id: str
    reason: str
    """What was found, without a word of the text."""


class Selection(NamedTuple):
    """The thumbs of a round."""

    rows: list[Thumb]
    """Those to train on, oldest first."""
    quarantined: list[Quarantined]
    left_out: dict[str, int]
    """Number of unused rows that are not usable, by cause; a later round looks at them again."""
    waiting: int
    """Usable rows beyond `max_rows`, which are left to later rounds."""
    offered: dict[str, int]
    """Number of all rows that no round took before, by what they say; these are taken, set aside, left out or wait."""

    @property
    def kinds(self) -> set[str]:
        """What the rows say: `up`, `down` or `correction`."""
        return {"correction" if row.correction is not None else row.thumb for row in self.rows}

    def shortage(self, feedback: FeedbackConfig) -> str | None:
        """Return in one line why the rows do not suffice for a round; None if they do."""
        if len(self.rows) < feedback.min_rows:
            causes = ", ".join(f"{count} {cause}" for cause, count in self.left_out.items())
            return (
                f"{len(self.rows)} usable thumbs are unused{f' ({causes})' if causes else ''}, fewer than "
                f"preferences.feedback.min_rows = {feedback.min_rows}"
            )
        if len(self.kinds) == 1 and "correction" not in self.kinds:
            return f"all {len(self.rows)} unused thumbs are {min(self.kinds)}: a round needs both kinds"
        return None


def select(
    rows: Sequence[Thumb],
    *,
    taken: Collection[str],
    feedback: FeedbackConfig,
    singles: bool,
    cut_answers: bool,
    phone_region: str,
) -> Selection:
    """Return which thumbs a round takes.

    Args:
        rows: All rows of the store, oldest first.
        taken: Ids of rows that earlier rounds took or set aside.
        feedback: Limits.
        singles: Whether a thumb alone can be trained on; else only an answer with its correction.
        cut_answers: Whether an answer that the length limit cut may be the better one.
        phone_region: Country of telephone numbers without a country code.
    """
    left_out: Counter[str] = Counter()
    usable: list[Thumb] = []
    quarantined: list[Quarantined] = []
    latest = {row.row_id for row in standing(rows)}
    for row in rows:
        if row.row_id in taken:
            continue
        cause = _unusable(row, latest, feedback=feedback, singles=singles, cut_answers=cut_answers)
        if cause is not None:
            left_out[cause] += 1
        elif len(usable) < feedback.max_rows and (found := personal(row, phone_region)):
            quarantined.append(Quarantined(row.row_id, found))
        else:
            usable.append(row)
    chosen = usable[: feedback.max_rows]
    offered = by_kind(row for row in rows if row.row_id not in taken)
    return Selection(chosen, quarantined, dict(left_out), len(usable) - len(chosen), offered)


def personal(row: Thumb, phone_region: str) -> str | None:
    """Return which personal data or secrets a row contains; None if it contains none."""
    assert row.messages is not None
    assert row.response is not None
    texts = [message_text(message) for message in parse_messages(row.messages)]
    for text in [*texts, row.response, row.correction or ""]:
        for spans, name in (
            (find_secrets(text), "secrets"),
            (find_personal_data(text, region=phone_region), "personal_data"),
        ):
            if spans:
                return f"{name}: {spans[0].kind}"
    return None


def standing(rows: Iterable[Thumb]) -> list[Thumb]:
    """Return the thumbs that stand: of several on one answer that was sent, the latest.

    An answer goes to one user, so a second thumb under the name of another conversation is not another user's.
    """
    latest = {_subject(row): row for row in rows}
    return sorted(latest.values(), key=lambda row: row.number)


def _subject(row: Thumb) -> tuple[str, ...]:
    """Return what a thumb is about; without its texts and an id, nobody can tell."""
    if row.served and row.completion_id is not None:
        return "served", row.completion_id, row.response or ""
    if row.messages is None or row.response is None:
        return row.conversation_id, row.completion_id or row.row_id
    return row.conversation_id, row.completion_id or row.messages, row.response


def _unusable(
    row: Thumb, latest: Collection[str], *, feedback: FeedbackConfig, singles: bool, cut_answers: bool
) -> str | None:
    if row.erased_at is not None or row.messages is None:
        return "deleted after preferences.feedback.retention_days"
    if row.row_id not in latest:
        return "replaced by a later thumb on the same answer"
    if not (row.served or feedback.include_unserved):
        return "not known to be the server's answers"
    if row.correction is None and not singles:
        return "without a correction, which pairs need"
    if row.correction is None and row.thumb == "up" and row.finish_reason == CUT and not cut_answers:
        return "up for an answer that the length limit cut"
    return None


def by_kind(rows: Iterable[Thumb]) -> dict[str, int]:
    """Count rows by what they say."""
    counts = Counter("correction" if row.corrected else row.thumb for row in rows)
    return {kind: counts[kind] for kind in ("up", "down", "correction")}
