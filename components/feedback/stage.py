"""The door of taking thumbs: write those that a round trains on to files of its own, before it trains.

The rows that a round took are in these files and nowhere else, so they are taken in the moment in which the stage is
published, and a round that is started again finds them there.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from components.artifacts import read_table, write_json, write_table
from components.feedback.selection import Selection, by_kind, select
from components.feedback.store import FeedbackStore, Thumb
from components.records import Artifact, DataRejected, TakeFeedbackRequest

THUMBS = "thumbs.parquet"
COUNTS = "feedback.json"
TYPES = {
    "row_id": "str",
    "prompt": "str",
    "response": "str",
    "correction": "str",
    "thumb": "str",
    "served": "bool",
    "round": "Int64",
    "received_at": "str",
    "reason": "str",
}
"""Columns of `thumbs.parquet`. A row with a reason is in quarantine and has no texts."""


def run(request: TakeFeedbackRequest, out: Path) -> None:
    """Write `thumbs.parquet` and `feedback.json`.

    With too few thumbs for a round that would train on nothing else, nothing is taken.

    Raises:
        DataRejected: There are too few, and the round has no other data.
        ValueError: The store is damaged.
    """
    selection = selected(request)
    shortage = selection.shortage(request.feedback)
    if shortage and request.feedback.use == "only":
        raise DataRejected(f"there is no round without thumbs: {shortage}")
    if shortage:
        waiting = selection.waiting + len(selection.rows) + len(selection.quarantined)
        selection = selection._replace(rows=[], quarantined=[], waiting=waiting)
    rows = [
        {
            "row_id": row.row_id,
            "prompt": row.messages,
            "response": row.response,
            "correction": row.correction,
            "thumb": row.thumb,
            "served": row.served,
            "round": row.round,
            "received_at": row.received_at,
        }
        for row in selection.rows
    ]
    rows += [{"row_id": row_id, "served": False, "reason": reason} for row_id, reason in selection.quarantined]
    write_table(out / THUMBS, pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES))
    write_json(out / COUNTS, counts(selection) | {"shortage": shortage})


def selected(request: TakeFeedbackRequest) -> Selection:
    """Return what the store offers to a round."""
    return select_for(request, FeedbackStore(request.store).rows())


def select_for(request: TakeFeedbackRequest, rows: Sequence[Thumb]) -> Selection:
    """Return which of these rows a round takes."""
    return select(
        rows,
        taken=taken_ids(request.earlier),
        feedback=request.feedback,
        singles=request.singles,
        cut_answers=request.cut_answers,
        phone_region=request.phone_region,
    )


def taken_ids(tables: tuple[Artifact, ...]) -> set[str]:
    """Return the ids of the rows that rounds took or set aside."""
    return {row_id for table in tables for row_id in read_table(table)["row_id"]}


def counts(selection: Selection) -> dict[str, object]:
    """Count what a selection took and left, in numbers that add up."""
    return {
        "taken": len(selection.rows),
        **by_kind(selection.rows),
        "offered": selection.offered,
        "quarantined": len(selection.quarantined),
        "quarantine_reasons": dict(Counter(row.reason for row in selection.quarantined)),
        "left_out": selection.left_out,
        "waiting": selection.waiting,
    }
