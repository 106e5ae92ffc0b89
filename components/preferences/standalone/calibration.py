"""A judge against pairs whose better answer is known.

What it predicted, and the scale that turns its margins into probabilities. Pure.

A pair's margin is the difference of the judge's scores of the known better answer and of the other one; of a judge that
compares, the difference of their shares of the verdict, 2 q - 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from components.artifacts import digest
from components.data.messages import Messages
from components.data.preference_file import SeedPair
from components.data.prompts import prompt_id
from components.judges.protocol import Group, Verdict, conclusions, scores
from components.statistics.calibration import Prediction

LEAST = 1e-6
"""Probability that 0 counts as, so that one certain mistake does not make a mean log loss infinite."""
LARGEST = 1e12
"""Bound on the inverse scale, relative to the margins."""


@dataclass(frozen=True)
class KnownPair:
    """One pair with a known label, and what the judge said of it."""

    prompt: str
    """Names the prompt; pairs of one prompt are counted as one observation."""
    tag: str
    label: float
    """Probability that the known better answer is better, in (0.5, 1]."""
    margin: float
    """Above 0 where the judge agrees, below 0 where it does not, 0 where it sees a tie."""
    said: float | None
    """What a judge that compares concluded: the probability that the known better answer is better; None where the
    judge scores alone."""

    def log_odds(self, scale: float) -> float:
        """Log-odds of the judge's probability that the known better answer is better.

        Infinite where a judge that compares is certain.

        Args:
            scale: Margin at which a judge that scores alone gives p = 0.73.
        """
        return self.margin / scale if self.said is None else float(logit(self.said))


def predictions(pairs: Sequence[KnownPair], *, scale: float) -> list[Prediction]:
    """The pairs as what is measured of every source of preferences: the known better answer is the chosen one."""
    return [Prediction(pair.prompt, pair.log_odds(scale), pair.label, pair.tag) for pair in pairs]


def log_loss(pairs: Sequence[KnownPair], *, scale: float) -> float:
    """Mean negative log-likelihood of the labels under the judge's probabilities, in nats; ln 2 is what a coin has.

    Args:
        pairs: At least one.
        scale: As for `Known.log_odds`.
    """
    told = np.clip(expit([pair.log_odds(scale) for pair in pairs]), LEAST, 1 - LEAST)
    labels = np.array([pair.label for pair in pairs])
    return float(-(labels * np.log(told) + (1 - labels) * np.log1p(-told)).mean())


def fit_scale(pairs: Sequence[KnownPair]) -> float | None:
    """The `soft_label_scale` under which p = sigmoid(margin / scale) makes the labels most likely.

    Platt's scaling (1999) with no offset, since a pair has no first answer: the temperature of a Bradley-Terry model,
    by maximum likelihood. With a = 1 / scale the log-likelihood is concave, and its slope is sum m (label - sigmoid(a
    m)).

    Returns:
        The scale, above 0 and in units of the margin; None where none is best: the margins say nothing or the opposite
        of the labels, or they contradict no label, so that every smaller scale is better.
    """
    margins, labels = np.array([pair.margin for pair in pairs]), np.array([pair.label for pair in pairs])
    size = float(np.abs(margins).max(initial=0.0))
    if size == 0:
        return None
    unit = margins / size

    def slope(inverse: float) -> float:
        return float((unit * (labels - expit(inverse * unit))).sum())

    if slope(0.0) <= 0 or slope(LARGEST) >= 0:
        return None
    upper = 1.0
    while slope(upper) > 0:
        upper *= 2
    return size / float(brentq(slope, 0.0, upper, xtol=1e-12))


@dataclass(frozen=True)
class Question:
    """A pair with a known label, as it is shown to a judge."""

    group: Group
    """The two answers, in an order that says nothing of the label."""
    better: int
    """Sample of the known better one."""
    label: float
    tag: str


def questions(pairs: Sequence[SeedPair], *, default_tag: str) -> list[Question]:
    """The pairs of which one answer is known to be better, each once.

    A label is p where the file gives it, and certain where it does not; p = 0.5, a margin of 0 and equal texts are no
    label.
    """
    found: dict[str, Question] = {}
    for pair in pairs:
        label = 1.0 if pair.p is None else pair.p
        if (
            pair.chosen is None
            or pair.rejected is None
            or pair.chosen.strip() == pair.rejected.strip()
            or pair.margin == 0
            or label == 0.5
        ):
            continue
        better, worse = (pair.chosen, pair.rejected) if label > 0.5 else (pair.rejected, pair.chosen)
        question = _question(pair.messages, better, worse, label=max(label, 1 - label), tag=pair.tag or default_tag)
        found.setdefault(question.group.prompt_id, question)
    return list(found.values())


def known(asked: Sequence[Question], verdicts: Sequence[Verdict]) -> list[KnownPair]:
    """What the judge said of each question; one without a valid verdict is left out."""
    scored = scores(verdicts)
    said = {
        (verdict.prompt_id, verdict.sample_id): verdict.score
        for verdict in conclusions(verdicts)
        if verdict.opponent_id is not None and verdict.score is not None
    }
    found = []
    for question in asked:
        name, better, other = question.group.prompt_id, question.better, 1 - question.better
        if (name, better) not in scored or (name, other) not in scored:
            continue
        first, second = said.get((name, better)), said.get((name, other))
        probability = first if first is not None else None if second is None else 1 - second
        margin = scored[name, better] - scored[name, other]
        found.append(KnownPair(prompt_id(question.group.messages), question.tag, question.label, margin, probability))
    return found


def _question(messages: Messages, better: str, worse: str, *, label: float, tag: str) -> Question:
    name = digest([prompt_id(messages), *sorted((better, worse))])[:16]
    texts = sorted((better, worse), key=lambda text: digest([name, text]))
    return Question(Group(name, messages, tuple(enumerate(texts))), texts.index(better), label, tag)
