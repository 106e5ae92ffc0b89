"""Calibration of a judge on pairs whose better answer is known.

Its predictions, and the scale that turns its margins into probabilities. Pure.

A pair's margin is the judge's score of the known better answer minus its score of the other one. For a judge that
compares, it is the difference of their shares of the verdict, 2 q - 1.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from components.artifacts import digest
from components.data.funnel import counted, step, too_little
from components.data.preference_file import SeedPair, SeedPairs
from components.data.prompts import prompt_id
from components.judges.protocol import Group, Verdict, conclusions, scores
from components.statistics.calibration import Prediction

LEAST = 1e-6
"""Smallest probability used in a log loss, so that one certain mistake does not make the mean infinite."""
LARGEST = 1e12
"""Bound on the inverse scale, relative to the margins."""


@dataclass(frozen=True)
class KnownPair:
    """One pair with a known label, and the judge's verdict on it."""

    prompt: str
    """Id of the prompt; pairs of one prompt count as one observation."""
    tag: str
    label: float
    """Probability that the known better answer is better, in (0.5, 1]."""
    margin: float
    """Above 0 if the judge agrees with the label, below 0 if it disagrees, 0 if it sees a tie."""
    verdict_p: float | None
    """Probability that the known better answer is better, by a judge that compares; None if the judge scores each
    response alone."""

    def log_odds(self, scale: float) -> float:
        """Return the log-odds of the judge's probability that the known better answer is better.

        Infinite if a judge that compares is certain.

        Args:
            scale: Margin at which a judge that scores each response alone gives p = 0.73.
        """
        return self.margin / scale if self.verdict_p is None else float(logit(self.verdict_p))


def predictions(pairs: Sequence[KnownPair], *, scale: float) -> list[Prediction]:
    """Return the judge's predictions on the pairs, with the known better answer as the chosen one."""
    return [Prediction(pair.prompt, pair.log_odds(scale), pair.label, pair.tag) for pair in pairs]


def log_loss(pairs: Sequence[KnownPair], *, scale: float) -> float:
    """Return the mean negative log-likelihood of the labels under the judge's probabilities, in nats.

    A judge that always answers 0.5 has ln 2.

    Args:
        pairs: At least one.
        scale: As for `KnownPair.log_odds`.
    """
    probs = np.clip(expit([pair.log_odds(scale) for pair in pairs]), LEAST, 1 - LEAST)
    labels = np.array([pair.label for pair in pairs])
    return float(-(labels * np.log(probs) + (1 - labels) * np.log1p(-probs)).mean())


def fit_scale(pairs: Sequence[KnownPair]) -> float | None:
    """Return the `soft_label_scale` under which p = sigmoid(margin / scale) makes the labels most likely.

    Platt's scaling (1999) without an offset, since a pair has no first answer: the temperature of a Bradley-Terry
    model, by maximum likelihood. With a = 1 / scale the log-likelihood is concave, and its slope is
    sum m (label - sigmoid(a m)).

    Returns:
        The scale, above 0 and in units of the margin. None if no scale is best: either the margins do not favour the
        labels, or they contradict no label, so that every smaller scale is better.
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
    """A pair with a known label, as a judge reads it."""

    group: Group
    """The two answers, in an order that does not reveal the label."""
    better: int
    """Sample id of the known better answer."""
    label: float
    tag: str


def _without_label(pair: SeedPair) -> str | None:
    """Return why it is not known which answer of a pair is better; None if it is known."""
    if pair.chosen is None or pair.rejected is None:
        return "a single response"
    if pair.chosen.strip() == pair.rejected.strip():
        return "two equal texts"
    if pair.margin == 0:
        return "a margin of 0"
    return "p = 0.5" if pair.p == 0.5 else None


def no_question(pairs: SeedPairs) -> str:
    """Say why no pair of a data set has a known label."""
    reasons = Counter(reason for pair in pairs.pairs if (reason := _without_label(pair)) is not None)
    parted = {"chosen and rejected differ before the last answer": len(pairs.split_earlier)}
    return too_little(
        "no pair has a known label",
        [step(pairs.num_rows, "rows", counted({**reasons, **parted, **pairs.left_out}, {}))],
        otherwise="use pairs of which one answer is known to be better",
    )


def questions(pairs: Sequence[SeedPair], *, default_tag: str) -> list[Question]:
    """Return the pairs of which one answer is known to be better, each once.

    The label is p if the file gives it, else 1. A pair with p = 0.5, a margin of 0 or equal texts has no label.

    Raises:
        ValueError: A pair's p is not a probability; names its row.
    """
    asked: dict[str, Question] = {}
    for pair in pairs:
        label = 1.0 if pair.p is None else pair.p
        if not 0 <= label <= 1:
            raise ValueError(f"{pair.place}: p is {label:g}, but must be a probability in [0, 1], or left out")
        if pair.chosen is None or pair.rejected is None or _without_label(pair) is not None:
            continue
        better, worse = (pair.chosen, pair.rejected) if label > 0.5 else (pair.rejected, pair.chosen)
        question = _question(pair, better, worse, label=max(label, 1 - label), tag=pair.tag or default_tag)
        asked.setdefault(question.group.prompt_id, question)
    return list(asked.values())


def known(asked: Sequence[Question], verdicts: Sequence[Verdict]) -> list[KnownPair]:
    """Return the questions with the judge's verdicts; a question without a valid verdict is left out."""
    scored = scores(verdicts)
    compared = {
        (verdict.prompt_id, verdict.sample_id): verdict.score
        for verdict in conclusions(verdicts)
        if verdict.opponent_id is not None and verdict.score is not None
    }
    pairs = []
    for question in asked:
        name, better, other = question.group.prompt_id, question.better, 1 - question.better
        if (name, better) not in scored or (name, other) not in scored:
            continue
        first, second = compared.get((name, better)), compared.get((name, other))
        probability = first if first is not None else None if second is None else 1 - second
        margin = scored[name, better] - scored[name, other]
        pairs.append(KnownPair(prompt_id(question.group.messages), question.tag, question.label, margin, probability))
    return pairs


def _question(pair: SeedPair, better: str, worse: str, *, label: float, tag: str) -> Question:
    name = digest([prompt_id(pair.messages), *sorted((better, worse))])[:16]
    texts = sorted((better, worse), key=lambda text: digest([name, text]))
    group = Group(name, pair.messages, tuple(enumerate(texts)), columns=pair.columns)
    return Question(group, texts.index(better), label, tag)
