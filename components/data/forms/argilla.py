"""Argilla's JSON export of records: `fields`, and `responses` by question from one or several annotators.

Source: `Record.to_dict` of Argilla 2. A question compares answers if its value is a ranking of fields, the name of one
of two fields, or a rating whose question is named after a field, such as `response1-rating`. Suggestions are a model's
and are not read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from components.data.conversations import conversation, with_context
from components.data.forms.form import CHAT, Form, Reading, nested, prompt_cell, text
from components.data.forms.rated import Choice
from components.data.forms.votes import Vote, pairs_by_votes
from components.data.messages import Messages, without_tools
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

PROMPTS = ("prompt", "instruction", "question", "input", "messages", "chat")
CONTEXT = ("system", "tools")
NOBODY = "00000000-0000-0000-0000-000000000000"
"""The user of a response whose annotator is not known."""
Values = list[tuple[str, Any]]
"""The annotators' answers to one question: who, and what."""


def _read(read: Rows, choice: Choice) -> Reading:
    pairs: list[SeedPair] = []
    left_out: Counter[str] = Counter()
    for row in read.rows:
        fields, responses = nested(row, "fields"), nested(row, "responses")
        if not isinstance(fields, dict) or not isinstance(responses or {}, dict):
            raise ValueError(f"{row.place}: a record needs the objects fields and responses, as `to_json` writes them")
        prompt_name = next((name for name in PROMPTS if fields.get(name) is not None), None)
        if prompt_name is None:
            raise ValueError(f"{row.place}: fields have no prompt (they are {', '.join(fields)}): name one prompt")
        answers = {name: value for name, value in fields.items() if name not in (prompt_name, *CONTEXT)}
        votes = _votes(row, responses or {}, [name for name, value in answers.items() if value is not None])
        named = {name: text(row, f"fields.{name}", answers[name]) for name in _named(votes)}
        messages = _prompt(row, fields, prompt_name)
        found = pairs_by_votes(messages, named, votes, choice, place=row.place, tag=_tag(row)) if votes else []
        if not found:
            left_out["no submitted response that compares two answers" if not votes else "no two rated answers"] += 1
        pairs += found
    return Reading(pairs, left_out=left_out)


def _named(votes: list[Vote]) -> list[str]:
    return list(dict.fromkeys(name for vote in votes for name in vote))


def _prompt(row: Row, fields: dict[str, Any], name: str) -> Messages:
    context = {key: fields[key] for key in CONTEXT if key in fields}
    return with_context(conversation(fields[name], f"{row.place} fields.{name}"), Row(row.place, context))


def _tag(row: Row) -> str | None:
    metadata = nested(row, "metadata")
    tag = metadata.get("tag") if isinstance(metadata, dict) else None
    return tag if isinstance(tag, str) else None


def _votes(row: Row, responses: dict[str, Any], answers: list[str]) -> list[Vote]:
    """Return each annotator's vote: by a ranking, else by a choice of one answer, else by ratings."""
    rankings: dict[str, list[Vote]] = {}
    choices: dict[str, list[Vote]] = {}
    ratings: dict[str, Vote] = defaultdict(dict)
    for question, values in _questions(row, responses):
        rated = _rated_field(question, answers)
        for user, value in values:
            if isinstance(value, list) and value:
                rankings.setdefault(question, []).append(_ranking(row, question, value, answers))
            elif isinstance(value, str) and value in answers and len(answers) == 2:
                choices.setdefault(question, []).append({name: float(name == value) for name in answers})
            elif rated is not None and isinstance(value, int | float) and not isinstance(value, bool):
                ratings[user][rated] = float(value)
    for kind in (rankings, choices):
        if len(kind) > 1:
            raise ValueError(f"{row.place}: the questions {', '.join(kind)} all compare the answers: keep one of them")
        if kind:
            return next(iter(kind.values()))
    return list(ratings.values())


def _questions(row: Row, responses: dict[str, Any]) -> Iterator[tuple[str, Values]]:
    """Yield each question with its submitted responses; an export with a status may hold drafts and discarded ones."""
    for question, several in responses.items():
        if not isinstance(several, list) or not all(isinstance(each, dict) for each in several):
            raise ValueError(f'{row.place}: responses.{question} must be a list of objects such as {{"value": ...}}')
        yield (
            question,
            [
                (str(each.get("user_id", number)), each.get("value"))
                for number, each in enumerate(several)
                if each.get("status", "submitted") in ("submitted", None)
            ],
        )


def _ranking(row: Row, question: str, value: list[Any], answers: list[str]) -> Vote:
    """Return a ranking's vote; items are names from the best to the worst, or objects with `value` and `rank`."""
    vote: Vote = {}
    for place, item in enumerate(value, 1):
        name, rank = (item.get("value"), item.get("rank", place)) if isinstance(item, dict) else (item, place)
        if name not in answers or not isinstance(rank, int):
            raise ValueError(
                f"{row.place}: responses.{question} ranks {name!r}, which is not a field (the answers are "
                f"{', '.join(answers)}): name the ranked values like the fields"
            )
        vote[name] = -float(rank)
    return vote


def _rated_field(question: str, answers: list[str]) -> str | None:
    """Return the answer that a question named like `response1-rating` or `rating_response1` rates; None otherwise."""
    names = [question.removesuffix("rating").rstrip("-_. "), question.removeprefix("rating").lstrip("-_. ")]
    return next((name for name in names if name in answers and name != question), None)


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    _, tools = without_tools(pair.messages)
    fields: dict[str, Any] = {"prompt": prompt_cell(pair), "response1": pair.chosen, "response2": pair.rejected}
    fields |= {"tools": tools} if tools else {}
    preference = [{"value": ["response1", "response2"], "user_id": NOBODY}]
    metadata = {} if pair.tag is None else {"tag": pair.tag}
    return [{"fields": fields, "metadata": metadata, "suggestions": {}, "responses": {"preference": preference}}]


ARGILLA = Form(
    name="argilla",
    title="Argilla's JSON export of records",
    holds=CHAT | {"tag"},
    columns=frozenset({"id", "_server_id", "fields", "metadata", "suggestions", "responses", "vectors"}),
    matches=lambda read: {"fields", "responses"} <= set(read.columns),
    read=_read,
    write=_write,
    not_read="ids, suggestions, vectors, metadata but tag, and fields that are neither the prompt nor compared",
)
