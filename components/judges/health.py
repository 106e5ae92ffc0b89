"""A judge's health from its own verdicts: consistency, stability, ties, length preference, agreement of its jurors.

Pure.

Every share is a mean over prompts; each prompt counts once, however many of its responses were compared. The interval
of a share stays wide for few prompts. A measure without data is None, never 0 or 1: a judge that scores has no position
consistency.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from components.artifacts import derive_seed
from components.judges.comparisons import REPEATED
from components.judges.protocol import BACKWARD, BY, FORWARD, SCORE_NOISE, Group, Verdict
from components.records import Interval, Record
from components.statistics.intervals import win_rate

CONFIDENCE = 0.95
"""Confidence level of the intervals."""
RESAMPLES = 1000
"""Resamples of the intervals' bootstrap."""

ORDERS = (*REPEATED, *REPEATED.values())
"""Parts that hold the verdict of one question about a comparison."""

Shares = Mapping[str, Sequence[float] | np.ndarray]
"""By prompt, the outcomes whose mean is the share: 1 or 0."""
Pair = tuple[str, int, int]
"""A comparison: its prompt_id, its first sample and the opponent."""


class PartHealth(Record):
    """Health of one part of a judge, such as a juror or a principle."""

    agreement: Interval | None
    """Share of equal decisions, among the comparisons that both the judge and the part decided."""
    position_consistency: Interval | None
    repetition_stability: Interval | None
    accuracy: float | None = None
    """Mean probability that the judge's conclusions assign to the part's decisions: for a jury by `dawid_skene` the
    estimate of the juror's reliability. None if the judge scores, if the part decided nothing, and in rounds of earlier
    versions."""


class Health(Record):
    """Health of a judge, measured on its verdicts."""

    position_consistency: Interval | None
    """Share of comparisons whose two orders agree."""
    repetition_stability: Interval | None
    """Share of repeated questions with the same answer."""
    tie_share: Interval | None
    """Share of the comparisons that ended in a tie; if the judge scores, share of the pairs of a prompt's different
    responses."""
    invalid_share: float | None
    """Share of the conclusions that are invalid."""
    length_preference: Interval | None
    """Share of the decided comparisons of unequal lengths that the longer response won; 0.5 is no preference."""
    mean_length_difference: float | None
    """Characters of the winner minus those of the loser, over the decided comparisons."""
    parts: dict[str, PartHealth]
    """By juror or principle."""


class Compared(NamedTuple):
    """The comparisons of one prompt's different responses, from a judge's conclusions."""

    winners: np.ndarray
    """(n,) 1 if the first response is better, -1 if the second is, 0 for a tie."""
    lengths: np.ndarray
    """(n,) characters of the first response minus those of the second."""


def measure_health(verdicts: Sequence[Verdict], groups: Sequence[Group], *, seed: int) -> Health:
    """Measure a judge's health on its verdicts.

    Args:
        verdicts: All verdicts of the judge, conclusions and parts.
        groups: The judged prompts and responses.
        seed: Seed of the intervals' bootstrap.
    """
    concluded = [verdict for verdict in verdicts if not verdict.part]
    compared = _compared(concluded, groups)
    decided = {name: pairs for name, pairs in compared.items() if pairs.winners.any()}
    differences = [float(np.mean((pairs.winners * pairs.lengths)[pairs.winners != 0])) for pairs in decided.values()]
    return Health(
        position_consistency=_interval(_orders_agree(verdicts), derive_seed(seed, "position")),
        repetition_stability=_interval(_repeats_agree(verdicts), derive_seed(seed, "repetition")),
        tie_share=_interval({name: pairs.winners == 0 for name, pairs in compared.items()}, derive_seed(seed, "ties")),
        invalid_share=sum(verdict.status == "invalid" for verdict in concluded) / len(concluded) if concluded else None,
        length_preference=_interval(
            {name: _longer_wins(pairs) for name, pairs in decided.items()}, derive_seed(seed, "length")
        ),
        mean_length_difference=float(np.mean(differences)) if differences else None,
        parts=_parts(verdicts, seed),
    )


def _interval(shares: Shares, seed: int) -> Interval | None:
    means = [float(np.mean(outcomes)) for outcomes in shares.values() if len(outcomes)]
    return win_rate(means, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed) if means else None


def _compared(concluded: Sequence[Verdict], groups: Sequence[Group]) -> dict[str, Compared]:
    """Return, by prompt, the comparisons that a judge concluded on, or that its scores imply.

    Pairs of equal texts are left out.
    """
    texts = {(group.prompt_id, number): text.strip() for group in groups for number, text in group.responses}
    outcomes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    scores: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for verdict in concluded:
        if verdict.score is None:
            continue
        name, first, second = verdict.prompt_id, verdict.sample_id, verdict.opponent_id
        if second is None:
            scores[name][first] = verdict.score
        elif texts[name, first] != texts[name, second]:
            outcomes[name].append((_winner(verdict.score), len(texts[name, first]) - len(texts[name, second])))
    implied = {
        name: _implied(list(of_prompt.values()), [texts[name, number] for number in of_prompt])
        for name, of_prompt in scores.items()
    }
    return implied | {name: Compared(*np.array(of_prompt).T) for name, of_prompt in outcomes.items()}


def _implied(scores: Sequence[float], texts: Sequence[str]) -> Compared:
    """Return the comparisons of different texts that the scores of one prompt's responses imply."""
    values, lengths = np.array(scores, dtype=np.float64), np.array([len(text) for text in texts])
    _, kinds = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
    first, second = np.triu_indices(len(values), k=1)
    different = kinds[first] != kinds[second]
    first, second = first[different], second[different]
    tied = np.isclose(values[first], values[second], rtol=SCORE_NOISE, atol=SCORE_NOISE)
    return Compared(
        np.where(tied, 0, np.sign(values[first] - values[second])).astype(int), lengths[first] - lengths[second]
    )


def _longer_wins(pairs: Compared) -> np.ndarray:
    counted = (pairs.winners != 0) & (pairs.lengths != 0)
    won: np.ndarray = pairs.winners[counted] == np.sign(pairs.lengths[counted])
    return won


def _orders_agree(verdicts: Sequence[Verdict]) -> Shares:
    """Return, by prompt, whether the two orders of a comparison name the same winner or are both ties."""
    winners = _winners_by_order(verdicts)
    agreements: defaultdict[str, list[float]] = defaultdict(list)
    for (part, order, (name, first, second)), winner in winners.items():
        backward = winners.get((part, BACKWARD, (name, second, first)))
        if order == FORWARD and backward is not None:
            agreements[name].append(winner == -backward)
    return agreements


def _repeats_agree(verdicts: Sequence[Verdict]) -> Shares:
    """Return, by prompt, whether a repeated question got the same answer."""
    winners = _winners_by_order(verdicts)
    agreements: defaultdict[str, list[float]] = defaultdict(list)
    for (part, order, pair), winner in winners.items():
        repeat = winners.get((part, REPEATED[order], pair)) if order in REPEATED else None
        if repeat is not None:
            agreements[pair[0]].append(winner == repeat)
    return agreements


def _winners_by_order(verdicts: Sequence[Verdict]) -> dict[tuple[str, str, Pair], int]:
    """Return the winner by part, order, and pair as it was shown; valid answers only."""
    winners = {}
    for verdict in verdicts:
        part, order = _split(verdict.part)
        if order and verdict.score is not None and verdict.opponent_id is not None:
            winners[part, order, (verdict.prompt_id, verdict.sample_id, verdict.opponent_id)] = _winner(verdict.score)
    return winners


def _split(part: str) -> tuple[str, str]:
    """Split a part into its owner (empty for the judge itself) and its order (empty if it is not an order)."""
    owner, _, last = part.rpartition("/")
    return (owner, last) if last in ORDERS else (part, "")


def _winner(score: float) -> int:
    return 0 if abs(score - 0.5) <= SCORE_NOISE else 1 if score > 0.5 else -1


def _parts(verdicts: Sequence[Verdict], seed: int) -> dict[str, PartHealth]:
    """Measure the jurors or principles: the outermost parts that are neither orders nor a person's vote."""
    owners = {_split(verdict.part)[0] for verdict in verdicts if not verdict.part.startswith(BY)} - {""}
    outermost = sorted(part for part in owners if not any(part.startswith(f"{other}/") for other in owners))
    concluded = [verdict for verdict in verdicts if not verdict.part]
    parts = {}
    for part in outermost:
        own = [verdict for verdict in verdicts if verdict.part == part]
        within = [verdict for verdict in verdicts if verdict.part.startswith(f"{part}/")]
        parts[part] = PartHealth(
            agreement=_interval(_same_winners(concluded, own), derive_seed(seed, "agreement", part)),
            position_consistency=_interval(_orders_agree(within), derive_seed(seed, "position", part)),
            repetition_stability=_interval(_repeats_agree(within), derive_seed(seed, "repetition", part)),
            accuracy=_accuracy(concluded, own),
        )
    return parts


def _accuracy(concluded: Sequence[Verdict], own: Sequence[Verdict]) -> float | None:
    """Return the mean of the concluded probability that a part's winner is better, over the part's decisions."""
    winners = _winners(own)
    probabilities: list[float] = []
    for verdict in concluded:
        if verdict.score is None or verdict.opponent_id is None:
            continue
        name, first, second = verdict.prompt_id, verdict.sample_id, verdict.opponent_id
        winner = winners.get((name, first, second)) or -winners.get((name, second, first), 0)
        probabilities += [verdict.score if winner > 0 else 1 - verdict.score] if winner else []
    return math.fsum(probabilities) / len(probabilities) if probabilities else None


def _same_winners(concluded: Sequence[Verdict], own: Sequence[Verdict]) -> Shares:
    """Return, by prompt, whether a part names the judge's winner, over the comparisons in which both name one."""
    winners = _winners(own)
    agreements: defaultdict[str, list[float]] = defaultdict(list)
    for (name, first, second), winner in _winners(concluded).items():
        own_winner = winners.get((name, first, second)) or -winners.get((name, second, first), 0)
        if winner and own_winner:
            agreements[name].append(winner == own_winner)
    return agreements


def _winners(verdicts: Sequence[Verdict]) -> dict[Pair, int]:
    """Return the winner of each comparison that the verdicts conclude on or that their scores imply."""
    winners: dict[Pair, int] = {}
    scores: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.score is not None and verdict.opponent_id is None:
            scores[verdict.prompt_id][verdict.sample_id] = verdict.score
        elif verdict.score is not None and verdict.opponent_id is not None:
            winners[verdict.prompt_id, verdict.sample_id, verdict.opponent_id] = _winner(verdict.score)
    for name, of_prompt in scores.items():
        for first, second in itertools.combinations(sorted(of_prompt), 2):
            tied = math.isclose(of_prompt[first], of_prompt[second], rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
            winners.setdefault((name, first, second), 0 if tied else 1 if of_prompt[first] > of_prompt[second] else -1)
    return winners
