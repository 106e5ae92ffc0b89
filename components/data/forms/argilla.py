"""Argilla's JSON export of records: `fields`, and `responses` by question from one or several annotators.

Source: `Record.to_dict` and `from_dict` of Argilla 2. A question compares answers if its value is a ranking of fields,
the name of one of two fields (then `tie` and `both_bad` may stand beside them), or a rating whose question is named
after a field, such as `response1-rating`. Suggestions are a model's and are not read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from components.data.conversations import conversation, with_context
from components.data.forms.form import CHAT, Form, Reading, nested, prompt_cell, text
from components.data.forms.judged import SCORES, JudgedPair, Judgement, judgement
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
UserVote = tuple[str, Vote, bool]
"""Who, their scores, and whether they said that both are bad."""


def _read(read: Rows, choice: Choice) -> Reading:
    pairs: list[SeedPair] = []
    left_out: Counter[str] = Counter()
    for row in read.rows:
        fields, prompt_name, answers, by_user = _judged_fields(row)
        votes = [vote for _, vote, _ in by_user]
        named = {name: text(row, f"fields.{name}", answers[name]) for name in _named(votes)}
        messages = _prompt(row, fields, prompt_name)
        found = pairs_by_votes(messages, named, votes, choice, place=row.place, tag=_tag(row)) if votes else []
        if not found:
            left_out["no submitted response that compares two answers" if not votes else "no two rated answers"] += 1
        pairs += found
    return Reading(pairs, left_out=left_out)


def _read_judged(row: Row) -> JudgedPair | None:
    fields, prompt_name, answers, by_user = _judged_fields(row)
    names = [name for name in answers if all(name in vote for _, vote, _ in by_user)]
    if not by_user or len(names) != 2:
        return None
    first, second = (text(row, f"fields.{name}", answers[name]) for name in names)
    votes = tuple(
        (None if user == NOBODY else user, "both_bad" if both_bad else judgement(vote[names[0]], vote[names[1]]))
        for user, vote, both_bad in by_user
    )
    return JudgedPair(_prompt(row, fields, prompt_name), first, second, _tag(row), votes)


def _judged_fields(row: Row) -> tuple[dict[str, Any], str, dict[str, Any], list[UserVote]]:
    """Return a record's fields, the name of its prompt, its answers, and its votes.

    Raises:
        ValueError: The record is malformed; names the row.
    """
    fields, responses = nested(row, "fields"), nested(row, "responses")
    if not isinstance(fields, dict) or not isinstance(responses or {}, dict):
        raise ValueError(f"{row.place}: a record needs the objects fields and responses, as `to_json` writes them")
    prompt_name = next((name for name in PROMPTS if fields.get(name) is not None), None)
    if prompt_name is None:
        raise ValueError(f"{row.place}: fields have no prompt (they are {', '.join(fields)}): name one prompt")
    answers = {name: value for name, value in fields.items() if name not in (prompt_name, *CONTEXT)}
    compared = [name for name, value in answers.items() if value is not None]
    return fields, prompt_name, answers, _votes(row, responses or {}, compared)


def _named(votes: list[Vote]) -> list[str]:
    return list(dict.fromkeys(name for vote in votes for name in vote))


def _prompt(row: Row, fields: dict[str, Any], name: str) -> Messages:
    context = {key: fields[key] for key in CONTEXT if key in fields}
    return with_context(conversation(fields[name], f"{row.place} fields.{name}"), Row(row.place, context))


def _tag(row: Row) -> str | None:
    metadata = nested(row, "metadata")
    tag = metadata.get("tag") if isinstance(metadata, dict) else None
    return tag if isinstance(tag, str) else None


def _votes(row: Row, responses: dict[str, Any], answers: list[str]) -> list[UserVote]:
    """Return each annotator's vote: by a ranking, else by a choice of one answer, else by ratings."""
    rankings: dict[str, list[UserVote]] = {}
    choices: dict[str, list[UserVote]] = {}
    ratings: dict[str, Vote] = defaultdict(dict)
    for question, values in _questions(row, responses):
        rated = _rated_field(question, answers)
        for user, value in values:
            if isinstance(value, list) and value:
                rankings.setdefault(question, []).append((user, _ranking(row, question, value, answers), False))
            elif isinstance(value, str) and len(answers) == 2 and (said := _said(value, answers)) is not None:
                vote = dict(zip(answers, SCORES[said], strict=True))
                choices.setdefault(question, []).append((user, vote, said == "both_bad"))
            elif rated is not None and isinstance(value, int | float) and not isinstance(value, bool):
                ratings[user][rated] = float(value)
    for kind in (rankings, choices):
        if len(kind) > 1:
            raise ValueError(f"{row.place}: the questions {', '.join(kind)} all compare the answers: keep one of them")
        if kind:
            return next(iter(kind.values()))
    return [(user, vote, False) for user, vote in ratings.items()]


def _said(value: str, answers: list[str]) -> Judgement | None:
    """Return what a label says about two answers; None if it says nothing about them."""
    labels: dict[str, Judgement] = {"tie": "tie", "both_bad": "both_bad", answers[0]: "first", answers[1]: "second"}
    return labels.get(value)


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
    fields: dict[str, Any] = {
        "prompt": prompt_cell(pair.messages),
        "response1": pair.chosen,
        "response2": pair.rejected,
    }
    fields |= {"tools": tools} if tools else {}
    preference = [{"value": ["response1", "response2"], "user_id": NOBODY}]
    return [_record(fields, pair.tag, preference)]


def _write_judged(pair: JudgedPair) -> dict[str, Any]:
    """Return a record with a label of each person; Argilla names its users by UUIDs."""
    _, tools = without_tools(pair.messages)
    fields: dict[str, Any] = {
        "prompt": prompt_cell(pair.messages),
        "response1": pair.first,
        "response2": pair.second,
    }
    fields |= {"tools": tools} if tools else {}
    labels = {"first": "response1", "second": "response2"}
    preference = [
        {"value": labels.get(said, said), "user_id": NOBODY if user is None else user_id(user)}
        for user, said in pair.votes
    ]
    return _record(fields, pair.tag, preference)


def user_id(user: str) -> str:
    """Return a UUID that stands for somebody: Argilla names users by nothing else."""
    return str(uuid5(NAMESPACE_URL, user))


def _record(fields: dict[str, Any], tag: str | None, preference: list[dict[str, Any]]) -> dict[str, Any]:
    metadata = {} if tag is None else {"tag": tag}
    return {"fields": fields, "metadata": metadata, "suggestions": {}, "responses": {"preference": preference}}


ARGILLA = Form(
    name="argilla",
    title="Argilla's JSON export of records",
    holds=CHAT | {"tag"},
    columns=frozenset({"id", "_server_id", "fields", "metadata", "suggestions", "responses", "vectors"}),
    matches=lambda read: {"fields", "responses"} <= set(read.columns),
    read=_read,
    write=_write,
    read_judged=_read_judged,
    write_judged=_write_judged,
    not_read="ids, suggestions, vectors, metadata but tag, and fields that are neither the prompt nor compared",
)
