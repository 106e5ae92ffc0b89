"""The protocol of judges: groups of responses in, verdicts out. Knows no particular judge.

A judge that scores gives one conclusion per response. A judge that compares gives one conclusion per pair of a prompt's
responses, in one order. `scores` reads conclusions only. The verdicts behind a conclusion (each order of a pair, each
juror, each principle) carry a `part`, so that every raw verdict is stored and none is counted twice.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from components.config import PolicyConfig
from components.data.messages import Messages, format_messages
from components.records import ModelRef

JUDGING = "judging"
"""Directory beside the stages' directories where judges store what must outlive a killed run, one folder per stage."""
SCORE_NOISE = 1e-9
"""Scores this close (relative to their size) are equal: the order of a sum must not turn a tie into a preference."""
Key = tuple[str, int]
"""A response: its prompt_id and its sample_id."""


@dataclass(frozen=True)
class SampledTokens:
    """The tokens of a response as the policy sampled them."""

    token_ids: tuple[int, ...]
    """With the stop token, unless the limit cut the response."""
    finish_reason: str
    """`stop` or `length`."""
    sampling: str | None
    """The law of the sampling, as JSON; None if it was not recorded."""


@dataclass(frozen=True)
class Group:
    """A prompt and the responses to it that are judged together."""

    prompt_id: str
    messages: Messages
    responses: tuple[tuple[int, str], ...]
    """(sample_id, text) of each response."""
    prompt_ids: tuple[int, ...] = ()
    """The prompt's tokens as the policy read them; empty if the responses were not sampled by the campaign."""
    tokens: Mapping[int, SampledTokens] = field(default_factory=dict)
    """Tokens of each response, by sample_id; empty if they were not sampled by the campaign."""
    tag: str | None = None
    """Kind of preference that the prompt asks for; None if it says none."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """JSON values of the other columns of the prompt's row, by name; empty if nothing reads them."""


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on one response, or on one ordered pair."""

    verdict_id: str
    """First 16 hex digits of a sha256 over all other fields and the judged texts."""
    prompt_id: str
    sample_id: int
    opponent_id: int | None
    """Sample that `sample_id` was compared with; None if it was judged alone."""
    score: float | None
    """Alone: any finite number, higher is better. Compared: the probability that the first is better, in [0, 1]; 0.5 is
    a tie. None if invalid."""
    status: Literal["ok", "invalid"]
    judge: str
    detail: str
    """Why the verdict is invalid, or the judge's explanation."""
    part: str = ""
    """Part of the judge that gave the verdict, such as an order, a juror or a principle; empty for the conclusion."""


@dataclass(frozen=True)
class JudgeContext:
    """What a judge may need besides its configuration. A judge that reads no model needs only `scratch`."""

    scratch: Path
    """Directory for caches, beside the stage's own; it outlives a killed run."""
    policy: ModelRef | None = None
    """The round's policy: the champion that the responses were sampled from."""
    start: ModelRef | None = None
    """Round 0."""
    limits: PolicyConfig | None = None
    """Precision and length limits of the policy."""


class Judge(Protocol):
    """Decides how good responses are."""

    name: str

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Judge every response of every group, or every pair.

        A response or pair that cannot be judged gets an invalid verdict, never a default score.

        Raises:
            JudgeUnavailable: The judge cannot be reached, or its budget is used up; the answers so far are kept for a
                later call.
        """
        ...


class Opinion(NamedTuple):
    """A score with an explanation, or None with the reason why there is no score."""

    score: float | None
    detail: str = ""


def make_verdict(
    judge: str, group: Group, sample_id: int, opinion: Opinion, *, opponent_id: int | None = None, part: str = ""
) -> Verdict:
    """Turn an opinion into a verdict.

    A score that is not finite, or that is outside [0, 1] in a comparison, makes the verdict invalid.
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


BY = "by "
"""Beginning of the part of one person's vote, before the name."""
FORWARD, BACKWARD = "forward", "backward"
"""Parts of a comparison: the order as asked, and the order with the two responses swapped."""


def conclude_pair(
    judge: str, group: Group, first: int, second: int, *, forward: Opinion, backward: Opinion
) -> list[Verdict]:
    """Return the verdicts on the two orders of a comparison, and the conclusion from them.

    A response wins only if both orders agree, so that no position is preferred.

    Args:
        judge: The judge's name.
        group: The prompt and its responses.
        first: Sample that `forward` shows first.
        second: Sample that `forward` shows second.
        forward: Probability that the response shown first, `first`, is better.
        backward: Probability that the response shown first, `second`, is better.

    Returns:
        The verdicts of the orders, then the conclusion: the mean for `first` if both orders are on the same side of one
        half, 0.5 if they are not, invalid if one of them is invalid.
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
    """Return the verdict as the verdict of one part of a larger judge, such as a juror or a principle.

    The verdict's own part becomes the end of a path, `part/own part`.
    """
    path = f"{part}/{verdict.part}" if verdict.part else part
    identity = sha256(json.dumps([verdict.verdict_id, path]).encode()).hexdigest()[:16]
    return replace(verdict, verdict_id=identity, part=path)


def judge_alone(
    judge: str, groups: Sequence[Group], score_distinct: Callable[[Sequence[tuple[Messages, str]]], Sequence[Opinion]]
) -> list[Verdict]:
    """Return one verdict per response, in order; equal texts in equal conversations are scored once.

    Args:
        judge: The judge's name.
        groups: What is judged.
        score_distinct: Returns an opinion per (conversation, response), in order.
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
    """Return the mean score of each response over the valid conclusions; a response without one is absent.

    A comparison counts its score for the first response and one minus it for the opponent.
    """
    scores_of: defaultdict[Key, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.score is None or verdict.part:
            continue
        scores_of[verdict.prompt_id, verdict.sample_id].append(verdict.score)
        if verdict.opponent_id is not None:
            scores_of[verdict.prompt_id, verdict.opponent_id].append(1 - verdict.score)
    return {key: math.fsum(values) / len(values) for key, values in scores_of.items()}


def conclusions(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that are conclusions, not parts of one."""
    return [verdict for verdict in verdicts if not verdict.part]
