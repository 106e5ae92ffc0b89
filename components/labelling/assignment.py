"""Which item an annotator gets next: leases, overlap and gold questions. Runs in the caller's transaction."""

import sqlite3
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from components.artifacts import derive_seed
from components.labelling.plan import Plan
from components.labelling.task import Item, Side

LEASE_SECONDS = 600.0
"""Seconds for which an item is one annotator's; the open page asks for more."""


@dataclass(frozen=True)
class Assigned:
    """An item that an annotator is shown."""

    plan: Plan
    item: Item
    shown_left: Side


@dataclass(frozen=True)
class _Standing:
    """How far a task is, seen by one annotator."""

    votes: Counter[str]
    """Votes by item; skips are none."""
    held: Counter[str]
    """Leases of others by item."""
    own: frozenset[str]
    """Items that the annotator has judged or skipped."""

    def free(self, plan: Plan, item: str) -> int:
        """Return how many more people may work on an item now."""
        return plan.needed[item] - self.votes[item] - self.held[item]


def assign(
    connection: sqlite3.Connection, plan: Plan, annotator: str, now: datetime
) -> Assigned | Literal["wait", "nothing"]:
    """Return an item, leased to the annotator: the one that they were at, else a new one.

    Two people hold one item only if it needs both of their votes. Items that have votes already come first, so that
    the quota is reached soon; the rest follow their content. "wait" means that others hold all that is left, "nothing"
    that nothing is left for this annotator.
    """
    standing = _read_standing(connection, plan, annotator, now)
    begun = connection.execute(
        "SELECT item_id, expires FROM leases WHERE task = ? AND annotator = ? ORDER BY begun DESC",
        (plan.name, annotator),
    ).fetchall()
    for row in begun:
        item = row["item_id"]
        is_mine = row["expires"] > now.timestamp() or item in plan.gold or standing.free(plan, item) > 0
        if is_mine and item not in standing.own:
            return _lease(connection, plan, annotator, item, now)
        connection.execute(
            "DELETE FROM leases WHERE task = ? AND annotator = ? AND item_id = ?", (plan.name, annotator, item)
        )
    left = [item for item in plan.needed if item not in standing.own and standing.votes[item] < plan.needed[item]]
    free = [item for item in left if standing.free(plan, item) > 0]
    if not free:
        return "wait" if left else "nothing"
    gold = _drawn_gold(connection, plan, annotator, standing)
    return _lease(connection, plan, annotator, gold or max(free, key=lambda item: standing.votes[item]), now)


def hold(connection: sqlite3.Connection, plan: Plan, annotator: str, item: str, now: datetime) -> None:
    """Lease an item to an annotator, or renew the lease."""
    connection.execute(
        "INSERT INTO leases VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (task, annotator, item_id) DO UPDATE SET expires = excluded.expires",
        (plan.name, annotator, item, now.timestamp(), now.timestamp() + LEASE_SECONDS),
    )


def renew(connection: sqlite3.Connection, plan: Plan, annotator: str, item: str, now: datetime) -> None:
    """Renew an annotator's lease of an item, if they still have it."""
    connection.execute(
        "UPDATE leases SET expires = ? WHERE task = ? AND annotator = ? AND item_id = ? AND expires > ?",
        (now.timestamp() + LEASE_SECONDS, plan.name, annotator, item, now.timestamp()),
    )


def shown_left(connection: sqlite3.Connection, plan: Plan, annotator: str, item: str) -> Side | None:
    """Return which answer an annotator was shown on the left; None if they were never shown the item."""
    row = connection.execute(
        "SELECT shown_left FROM showings WHERE task = ? AND annotator = ? AND item_id = ?",
        (plan.name, annotator, item),
    ).fetchone()
    return cast("Side", row["shown_left"]) if row else None


def _read_standing(connection: sqlite3.Connection, plan: Plan, annotator: str, now: datetime) -> _Standing:
    votes = connection.execute(
        "SELECT item_id, COUNT(*) FROM standing WHERE task = ? AND choice != 'skip' GROUP BY item_id", (plan.name,)
    )
    held = connection.execute(
        "SELECT item_id, COUNT(*) FROM leases WHERE task = ? AND annotator != ? AND expires > ? GROUP BY item_id",
        (plan.name, annotator, now.timestamp()),
    )
    own = connection.execute("SELECT item_id FROM standing WHERE task = ? AND annotator = ?", (plan.name, annotator))
    return _Standing(
        votes=Counter(dict(map(tuple, votes))),
        held=Counter(dict(map(tuple, held))),
        own=frozenset(item for (item,) in own),
    )


def _drawn_gold(connection: sqlite3.Connection, plan: Plan, annotator: str, standing: _Standing) -> str | None:
    """Return a gold question that the annotator has not seen, in a share of the cases; None in the others."""
    shown = {
        item
        for (item,) in connection.execute(
            "SELECT item_id FROM showings WHERE task = ? AND annotator = ?", (plan.name, annotator)
        )
    }
    if derive_seed("gold", plan.name, annotator, len(shown)) >= plan.task.gold_share * 2**31:
        return None
    unseen = [item for item in plan.gold if item not in shown and item not in standing.own]
    return min(unseen, key=lambda item: derive_seed("gold", plan.name, annotator, item), default=None)


def _lease(connection: sqlite3.Connection, plan: Plan, annotator: str, item: str, now: datetime) -> Assigned:
    hold(connection, plan, annotator, item, now)
    drawn: Side = "first" if derive_seed("left", plan.name, annotator, item) % 2 else "second"
    connection.execute(
        "INSERT OR IGNORE INTO showings VALUES (?, ?, ?, ?, ?)",
        (plan.name, annotator, item, drawn, now.astimezone(UTC).isoformat(timespec="seconds")),
    )
    left = shown_left(connection, plan, annotator, item)
    assert left is not None
    return Assigned(plan, plan.items[item], left)
