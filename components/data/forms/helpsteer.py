"""HelpSteer's forms: HelpSteer2's rated responses (arXiv 2406.08673), and the preferences of HelpSteer2 and 3.

HelpSteer2 has two rows per prompt, one after the other, with attributes from 0 to 4; the margin is the difference of
`helpfulness`. The preferences (arXiv 2410.01257, 2505.11475) are whole numbers from -3, the first response is much
better, to 3, the second one is; 0 is a tie, and the margin is the absolute value.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from components.data.conversations import conversation
from components.data.forms.form import Form, Reading, nested, number, text
from components.data.forms.rated import Choice, rated_pair
from components.data.messages import Messages
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

TURN = re.compile(r"\s*<extra_id_1>(User|Assistant)\n")
"""Stands between the turns of HelpSteer2's prompts."""
SPEAKERS = {"User": "user", "Assistant": "assistant"}
LIMITS = {"helpfulness": (0, 4), "overall_preference": (-3, 3), "preference_strength": (-3, 3)}


def _whole(row: Row, column: str) -> int | None:
    value = number(row, column, row.values.get(column))
    low, high = LIMITS[column]
    if value is not None and not (value == int(value) and low <= value <= high):
        raise ValueError(f"{row.place}: {column} is {value:g}, but must be a whole number from {low} to {high}")
    return None if value is None else int(value)


def _turns(row: Row) -> Messages:
    """Return the messages of a prompt of HelpSteer2, whose turns stand in one text."""
    prompt = text(row, "prompt", row.values.get("prompt"))
    first, *others = TURN.split(prompt)
    messages = [] if others and not first.strip() else [{"role": "user", "content": first}]
    messages += [
        {"role": SPEAKERS[speaker], "content": content}
        for speaker, content in zip(others[::2], others[1::2], strict=True)
    ]
    return conversation(messages, f"{row.place} prompt")


def _read_rated(read: Rows, _: Choice) -> Reading:
    pairs: list[SeedPair] = []
    left_out: Counter[str] = Counter()
    index = 0
    while index < len(read.rows):
        two = read.rows[index : index + 2]
        if len({row.values.get("prompt") for row in two}) > 1 or len(two) == 1:
            left_out["a prompt with one response"] += 1
            index += 1
            continue
        index += 2
        ratings = [_whole(row, "helpfulness") for row in two]
        answers = [text(row, "response", row.values.get("response")) for row in two]
        (first, high), (second, low) = zip(answers, ratings, strict=True)
        if high is None or low is None:
            left_out["a response without helpfulness"] += 2
        else:
            pairs.append(rated_pair(_turns(two[0]), (first, high), (second, low), place=two[0].place))
    return Reading(pairs, left_out=left_out)


def _write_rated(pair: SeedPair) -> list[dict[str, Any]]:
    first, *others = pair.messages
    names = {role: speaker for speaker, role in SPEAKERS.items()}
    turns = [f"\n\n<extra_id_1>{names[message['role']]}\n{message['content']}" for message in others]
    prompt = first["content"] + "".join(turns)
    ratings = {"chosen": _plain(pair.margin), "rejected": 0}
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    return [{"prompt": prompt, "response": answers[side], "helpfulness": ratings[side]} for side in answers]


def _plain(margin: float | None) -> float | int | None:
    return int(margin) if margin is not None and math.isfinite(margin) and margin == int(margin) else margin


def _reader_of(columns: tuple[str, str, str], context: Callable[[Row], Messages]) -> Callable[[Rows, Choice], Reading]:
    """Return a reader of preferences, whose first column is the preference and the others the two responses."""
    preference, *responses = columns

    def read_preferences(read: Rows, _: Choice) -> Reading:
        pairs: list[SeedPair] = []
        left_out: Counter[str] = Counter()
        for row in read.rows:
            value = _whole(row, preference)
            first, second = (text(row, name, row.values.get(name)) for name in responses)
            if value is None:
                left_out[f"no {preference}"] += 1
                continue
            domain = row.values.get("domain")
            tag = None if domain is None else text(row, "domain", domain)
            pairs.append(rated_pair(context(row), (first, -value), (second, 0), tag=tag, place=row.place))
        return Reading(pairs, left_out=left_out)

    return read_preferences


def _context(row: Row) -> Messages:
    return conversation(nested(row, "context"), f"{row.place} context")


def _write_preference(pair: SeedPair) -> list[dict[str, Any]]:
    margin = _plain(pair.margin)
    row = {
        "context": pair.messages,
        "response1": pair.chosen,
        "response2": pair.rejected,
        "overall_preference": None if margin is None else -margin,
    }
    return [row if pair.tag is None else {"domain": pair.tag, **row}]


def _write_preference_of_2(pair: SeedPair) -> list[dict[str, Any]]:
    (rated, _), margin = _write_rated(pair), _plain(pair.margin)
    return [
        {
            "prompt": rated["prompt"],
            "response_1": pair.chosen,
            "response_2": pair.rejected,
            "preference_strength": None if margin is None else -margin,
        }
    ]


OTHER_RATINGS = "correctness, coherence, complexity and verbosity"
FRAGILE_TURN = "spaces at the end of a turn that another one follows, or a text with a line `<extra_id_1>User`"
HELPSTEER2 = Form(
    name="helpsteer2",
    title="HelpSteer2: two rows per prompt with helpfulness",
    holds=frozenset({"pair", "turns", "margin", "tie"}),
    needs=frozenset({"margin"}),
    columns=frozenset({"prompt", "response", "helpfulness", *OTHER_RATINGS.replace(" and", ",").split(", ")}),
    matches=lambda read: {"prompt", "response", "helpfulness"} <= set(read.columns),
    read=_read_rated,
    write=_write_rated,
    fragile=FRAGILE_TURN,
    not_read=OTHER_RATINGS,
)
HELPSTEER2_PREFERENCE = Form(
    name="helpsteer2-preference",
    title="HelpSteer2's preferences: two responses and preference_strength",
    holds=frozenset({"pair", "turns", "margin", "tie"}),
    needs=frozenset({"margin"}),
    columns=frozenset({"prompt", "response_1", "response_2", "preference_strength"}),
    matches=lambda read: {"prompt", "response_1", "response_2", "preference_strength"} <= set(read.columns),
    read=_reader_of(("preference_strength", "response_1", "response_2"), _turns),
    write=_write_preference_of_2,
    fragile=FRAGILE_TURN,
)
HELPSTEER3 = Form(
    name="helpsteer3",
    title="HelpSteer3's preferences: a context, two responses and overall_preference",
    holds=frozenset({"pair", "system", "turns", "margin", "tie", "tag"}),
    needs=frozenset({"margin"}),
    columns=frozenset({"context", "response1", "response2", "overall_preference", "individual_preference", "domain"}),
    matches=lambda read: {"context", "response1", "response2", "overall_preference"} <= set(read.columns),
    read=_reader_of(("overall_preference", "response1", "response2"), _context),
    write=_write_preference,
    not_read="the single annotators' preferences and reasons",
)
