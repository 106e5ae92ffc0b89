"""Tasks for the tests of the labelling page."""

from typing import Any, Literal

from components.labelling.task import Item, Task, item_id


def make_item(
    number: int, *, gold: Literal["first", "second"] | None = None, first: str = "", second: str = ""
) -> Item:
    messages = [{"role": "user", "content": f"Question {number} of {'gold' if gold else 'data'}?"}]
    first, second = first or f"The first answer to {number}.", second or f"The second answer to {number}."
    return Item(
        item_id=item_id(messages, first, second), messages=messages, first=first, second=second, tag=None, gold=gold
    )


def make_task(*, num_items: int, num_gold: int = 0, round: int = 1, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "task": f"round-{round:03d}-1a2b3c4d5e6f",
        "campaign": "demo",
        "round": round,
        "rubric": "Prefer the answer that **helps** more.",
        "votes_per_item": 1,
        "overlap_share": 0.0,
        "overlap_votes": 2,
        "gold_share": 0.0,
        "quota": num_items,
        "deadline": None,
        "created_at": "2026-12-01T00:00:00+00:00",
        "items": tuple(
            [*(make_item(number) for number in range(num_items))]
            + [make_item(number, gold="first") for number in range(num_gold)]
        ),
    }
    return Task(**(values | changes))
