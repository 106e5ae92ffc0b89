"""What a judge is asked and what it answers. Knows no judge.

A judge that scores concludes once for each response; one that compares concludes once for each pair of a prompt's
responses that it looked at, in one order. `scores` reads conclusions. What they were made from (each order of a pair,
each juror, each principle) stands beside them as verdicts with a `part`, so that every raw verdict is kept and none is
counted twice.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from components.config import PolicyConfig
from components.data.messages import Messages, format_messages
from components.records import ModelRef

JUDGING = "judging"
"""Directory beside the stages' own where judges keep what must outlive a killed run, each stage's in a folder of its
own."""
SCORE_NOISE = 1e-9
"""Scores this close (relative to their size) are equal: the order of a sum must not turn a tie into a preference."""
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
    """Alone: any finite number, higher is better. Compared: the probability that the first is better, in [0, 1]; 0.5 is
    a tie. None when invalid."""
    status: Literal["ok", "invalid"]
    judge: str
    detail: str
    """Why the verdict is invalid, or what else the judge said."""
    part: str = ""
    """Which part of the judge said so, such as an order, a juror or a principle; empty for the judge's conclusion."""


@dataclass(frozen=True)
class JudgeContext:
    """What a judge may need beside its configuration. A judge that reads no model needs only `scratch`."""

    scratch: Path
    """Directory beside the stage's own that outlives a killed run: caches lie here."""
    policy: ModelRef | None = None
    """The round's policy: the champion that its responses were sampled from."""
    start: ModelRef | None = None
    """Round 0."""
    limits: PolicyConfig | None = None
    """Precision and length limits of the policy."""


class Judge(Protocol):
    """Decides how good responses are."""

    name: str

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Judges every response of every group, or every pair.

        What cannot be judged gets an invalid verdict, never a default score.

        Raises:
            JudgeUnavailable: The judge cannot be reached, or its budget is used up; what it said so far is kept for a
                later call.
        """
        ...


class Opinion(NamedTuple):
    """A score, or None with the reason why there is none."""

    score: float | None
    detail: str = ""


def make_verdict(
    judge: str, group: Group, sample_id: int, opinion: Opinion, *, opponent_id: int | None = None, part: str = ""
) -> Verdict:
    """Writes an opinion down.

    A score that is not finite, or is no share where two are compared, makes the verdict invalid.
    """
    texts = dict(group.responses)
    score, detail = opinion
    if score is not None and not math.isfinite(score):
        score, detail = None, f"the score is not finite: {score}"
    elif score is not None and opponent_id is not None and not 0 <= score <= 1:
        score, detail = None, f"the score of a comparison is outside [0, 1]: {score}"
    status: Literal["ok", "invalid"] = "invalid" if score is None else "ok"
    judged = [texts[sample_id], None if opponent_id is None else texts[opponent_id]]
    content = [
        judge,
        group.prompt_id,
        format_messages(group.messages),
        sample_id,
        opponent_id,
        judged,
        score,
        detail,
        part,
    ]
    identity = sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Verdict(identity, group.prompt_id, sample_id, opponent_id, score, status, judge, detail, part)


FORWARD, BACKWARD = "forward", "backward"
"""Parts of a comparison: as asked, and with the two responses in each other's place."""


def conclude_pair(
    judge: str, group: Group, first: int, second: int, *, forward: Opinion, backward: Opinion
) -> list[Verdict]:
    """The two orders of a comparison, and what follows from them.

    A win only where both orders agree, so no place is preferred.

    Args:
        judge: The judge's name.
        group: The prompt and its responses.
        first: Sample that was shown first in `forward`.
        second: Sample that was shown second in `forward`.
        forward: Probability that the response shown first is better, as asked.
        backward: The same where `second` was shown first.

    Returns:
        The verdicts of the orders, then the conclusion: the mean for `first` where both orders are on one side of one
        half, 0.5 where they are not, invalid where one of them is.
    """
    orders = [
        make_verdict(judge, group, first, forward, opponent_id=second, part=FORWARD),
        make_verdict(judge, group, second, backward, opponent_id=first, part=BACKWARD),
    ]
    asked, swapped = orders[0].score, orders[1].score
    if asked is None or swapped is None:
        opinion = Opinion(None, next(verdict.detail for verdict in orders if verdict.score is None))
    elif (asked - 0.5) * (0.5 - swapped) > 0:
        opinion = Opinion((asked + 1 - swapped) / 2)
    else:
        opinion = Opinion(0.5, "" if asked == swapped == 0.5 else "the orders disagree")
    return [*orders, make_verdict(judge, group, first, opinion, opponent_id=second)]


def as_part(verdict: Verdict, part: str) -> Verdict:
    """The verdict as what one part of a larger judge said, such as a juror or a principle.

    Its own parts stand below it.
    """
    path = f"{part}/{verdict.part}" if verdict.part else part
    identity = sha256(json.dumps([verdict.verdict_id, path]).encode()).hexdigest()[:16]
    return replace(verdict, verdict_id=identity, part=path)


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
    """Mean score of each response over its judge's valid conclusions; a response with none is absent.

    A comparison counts its score for the first response and one minus it for the opponent.
    """
    found: defaultdict[Key, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.score is None or verdict.part:
            continue
        found[verdict.prompt_id, verdict.sample_id].append(verdict.score)
        if verdict.opponent_id is not None:
            found[verdict.prompt_id, verdict.opponent_id].append(1 - verdict.score)
    return {key: math.fsum(values) / len(values) for key, values in found.items()}


def conclusions(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that are no part of another."""
    return [verdict for verdict in verdicts if not verdict.part]
