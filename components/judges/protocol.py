"""What a judge is asked and what it answers. Knows no judge.

A judge that scores gives one verdict for each response; one that compares gives one verdict for each ordered pair of a prompt's
responses. Both are read by `scores`.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NamedTuple, Protocol

from components.tokens import Messages, format_messages

Key = tuple[str, int]
"""A response: its prompt_id and its sample_id."""


@dataclass(frozen=True)
class Group:
    """A prompt and the responses to it that are judged together."""

    prompt_id: str
    messages: Messages
    responses: tuple[tuple[int, str], ...]
    """(sample_id, text) of each response."""


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one response, or of one ordered pair."""

    verdict_id: str
    """First 16 hex digits of a sha256 over everything else and the judged texts."""
    prompt_id: str
    sample_id: int
    opponent_id: int | None
    """Sample that `sample_id` was compared with; None when it was judged alone."""
    score: float | None
    """Alone: any finite number, higher is better. Compared: the first one's share of the win, in [0, 1]. None when invalid."""
    status: Literal["ok", "invalid"]
    judge: str
    detail: str
    """Why the verdict is invalid, or what else the judge said."""


class Judge(Protocol):
    """Decides how good responses are."""

    name: str

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Judges every response of every group; what cannot be judged gets an invalid verdict, never a default score."""
        ...


class Opinion(NamedTuple):
    """A score, or None with the reason why there is none."""

    score: float | None
    detail: str = ""


def make_verdict(judge: str, group: Group, sample_id: int, opinion: Opinion, *, opponent_id: int | None = None) -> Verdict:
    """Writes an opinion down; a score that is not finite, or is no share where two are compared, makes the verdict invalid."""
    texts = dict(group.responses)
    score, detail = opinion
    if score is not None and not math.isfinite(score):
        score, detail = None, f"the score is not finite: {score}"
    elif score is not None and opponent_id is not None and not 0 <= score <= 1:
        score, detail = None, f"the score of a comparison is outside [0, 1]: {score}"
    status: Literal["ok", "invalid"] = "invalid" if score is None else "ok"
    judged = [texts[sample_id], None if opponent_id is None else texts[opponent_id]]
    content = [judge, group.prompt_id, format_messages(group.messages), sample_id, opponent_id, judged, score, detail]
    identity = sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Verdict(identity, group.prompt_id, sample_id, opponent_id, score, status, judge, detail)


def judge_alone(
    judge: str, groups: Sequence[Group], score_distinct: Callable[[Sequence[tuple[Messages, str]]], Sequence[Opinion]]
) -> list[Verdict]:
    """One verdict for each response, in order, where equal texts in equal conversations are scored once.

    Args:
        judge: The judge's name.
        groups: What is judged.
        score_distinct: Gives an opinion on each (conversation, response), in order.
    """
    distinct: dict[tuple[str, str], tuple[Messages, str]] = {}
    for group in groups:
        conversation = format_messages(group.messages)
        for _, text in group.responses:
            distinct.setdefault((conversation, text), (group.messages, text))
    opinions = dict(zip(distinct, score_distinct(list(distinct.values())), strict=True))
    return [
        make_verdict(judge, group, sample_id, opinions[format_messages(group.messages), text])
        for group in groups
        for sample_id, text in group.responses
    ]


def scores(verdicts: Iterable[Verdict]) -> dict[Key, float]:
    """Mean score of each response over its valid verdicts; a response with none is absent.

    A comparison counts its score for the first response and one minus it for the opponent.
    """
    found: defaultdict[Key, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.score is None:
            continue
        found[verdict.prompt_id, verdict.sample_id].append(verdict.score)
        if verdict.opponent_id is not None:
            found[verdict.prompt_id, verdict.opponent_id].append(1 - verdict.score)
    return {key: math.fsum(values) / len(values) for key, values in found.items()}
