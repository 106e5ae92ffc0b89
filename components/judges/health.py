"""What a judge's own verdicts say about it: consistency, stability, ties, its taste for length, how its jurors agree.

Pure.

Every share is a mean over prompts, each of which counts once however many of its responses were compared, with an
interval that a handful of prompts cannot make narrow. What the verdicts do not show is None, never 0 or 1: a judge that
scores has no two orders.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from components.artifacts import derive_seed
from components.judges.comparisons import REPEATED
from components.judges.protocol import BACKWARD, FORWARD, SCORE_NOISE, Group, Verdict
from components.records import Interval, Record
from components.statistics.intervals import win_rate

CONFIDENCE = 0.95
"""Level of the intervals."""
RESAMPLES = 1000
"""Resamples of their bootstrap."""

ORDERS = (*REPEATED, *REPEATED.values())
"""Parts that say what came of asking about a comparison once."""

Shares = Mapping[str, Sequence[float] | np.ndarray]
"""By prompt, the outcomes that a share is the mean of: 1 where it holds, else 0."""
Pair = tuple[str, int, int]
"""A comparison: its prompt_id, the sample that stands first and its opponent."""


class PartHealth(Record):
    """How one part of a judge, such as a juror or a principle, stands to the whole."""

    agreement: Interval | None
    """Share of the judge's decided comparisons that the part decided alike, among those that it decided."""
    position_consistency: Interval | None
    repetition_stability: Interval | None
    accuracy: float | None = None
    """Mean probability, as the judge concludes it, of what the part decided: with a jury by `dawid_skene` the estimate
    of the juror's reliability. None where the judge scores, for a part that decided nothing, and in rounds of earlier
    versions."""


class Health(Record):
    """What a judge's verdicts say about the judge."""

    position_consistency: Interval | None
    """Share of comparisons whose two orders say the same."""
    repetition_stability: Interval | None
    """Share of repeated questions that were answered alike."""
    tie_share: Interval | None
    """Share of the comparisons that ended in a tie; of a judge that scores, of the pairs of a prompt's different
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
    """The comparisons of one prompt's different responses that follow from a judge's conclusions."""

    winners: np.ndarray
    """(n,) 1 where the first response is better, -1 where the second is, 0 for a tie."""
    lengths: np.ndarray
    """(n,) characters of the first response minus those of the second."""


def measure_health(verdicts: Sequence[Verdict], groups: Sequence[Group], *, seed: int) -> Health:
    """Measures a judge by what it said.

    Args:
        verdicts: All of its verdicts, conclusions and parts.
        groups: What it judged.
        seed: Seed of the intervals' bootstrap.
    """
    concluded = [verdict for verdict in verdicts if not verdict.part]
    compared = _compared(concluded, groups)
    decided = {name: found for name, found in compared.items() if found.winners.any()}
    differences = [float(np.mean((found.winners * found.lengths)[found.winners != 0])) for found in decided.values()]
    return Health(
        position_consistency=_interval(_orders_agree(verdicts), derive_seed(seed, "position")),
        repetition_stability=_interval(_repeats_agree(verdicts), derive_seed(seed, "repetition")),
        tie_share=_interval({name: found.winners == 0 for name, found in compared.items()}, derive_seed(seed, "ties")),
        invalid_share=sum(verdict.status == "invalid" for verdict in concluded) / len(concluded) if concluded else None,
        length_preference=_interval(
            {name: _longer_wins(found) for name, found in decided.items()}, derive_seed(seed, "length")
        ),
        mean_length_difference=float(np.mean(differences)) if differences else None,
        parts=_parts(verdicts, seed),
    )


def _interval(shares: Shares, seed: int) -> Interval | None:
    means = [float(np.mean(outcomes)) for outcomes in shares.values() if len(outcomes)]
    return win_rate(means, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed) if means else None


def _compared(concluded: Sequence[Verdict], groups: Sequence[Group]) -> dict[str, Compared]:
    """By prompt, who won each comparison that a judge concluded on, or that its scores imply.

    Equal texts are no comparison.
    """
    texts = {(group.prompt_id, number): text.strip() for group in groups for number, text in group.responses}
    shown: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    alone: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for verdict in concluded:
        if verdict.score is None:
            continue
        name, first, second = verdict.prompt_id, verdict.sample_id, verdict.opponent_id
        if second is None:
            alone[name][first] = verdict.score
        elif texts[name, first] != texts[name, second]:
            shown[name].append((_winner(verdict.score), len(texts[name, first]) - len(texts[name, second])))
    found = {
        name: _implied(list(scored.values()), [texts[name, number] for number in scored])
        for name, scored in alone.items()
    }
    return found | {name: Compared(*np.array(several).T) for name, several in shown.items()}


def _implied(scored: Sequence[float], texts: Sequence[str]) -> Compared:
    """What the scores of one prompt's responses say of each pair of different texts."""
    values, lengths = np.array(scored, dtype=np.float64), np.array([len(text) for text in texts])
    _, kinds = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
    first, second = np.triu_indices(len(values), k=1)
    different = kinds[first] != kinds[second]
    first, second = first[different], second[different]
    tied = np.isclose(values[first], values[second], rtol=SCORE_NOISE, atol=SCORE_NOISE)
    return Compared(
        np.where(tied, 0, np.sign(values[first] - values[second])).astype(int), lengths[first] - lengths[second]
    )


def _longer_wins(found: Compared) -> np.ndarray:
    counted = (found.winners != 0) & (found.lengths != 0)
    won: np.ndarray = found.winners[counted] == np.sign(found.lengths[counted])
    return won


def _orders_agree(verdicts: Sequence[Verdict]) -> Shares:
    """By prompt, whether the two orders of a comparison name the same winner, or both none."""
    said = _orders(verdicts)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for (part, order, (name, first, second)), winner in said.items():
        backward = said.get((part, BACKWARD, (name, second, first)))
        if order == FORWARD and backward is not None:
            found[name].append(winner == -backward)
    return found


def _repeats_agree(verdicts: Sequence[Verdict]) -> Shares:
    """By prompt, whether a question that was asked again was answered alike."""
    said = _orders(verdicts)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for (part, order, pair), winner in said.items():
        again = said.get((part, REPEATED[order], pair)) if order in REPEATED else None
        if again is not None:
            found[pair[0]].append(winner == again)
    return found


def _orders(verdicts: Sequence[Verdict]) -> dict[tuple[str, str, Pair], int]:
    """The winner by part, order, and pair as it was shown; of valid answers only."""
    found = {}
    for verdict in verdicts:
        part, order = _split(verdict.part)
        if order and verdict.score is not None and verdict.opponent_id is not None:
            found[part, order, (verdict.prompt_id, verdict.sample_id, verdict.opponent_id)] = _winner(verdict.score)
    return found


def _split(part: str) -> tuple[str, str]:
    """Whose verdict it is (empty for the judge itself), and which order of a comparison; empty where it is none."""
    owner, _, last = part.rpartition("/")
    return (owner, last) if last in ORDERS else (part, "")


def _winner(score: float) -> int:
    return 0 if abs(score - 0.5) <= SCORE_NOISE else 1 if score > 0.5 else -1


def _parts(verdicts: Sequence[Verdict], seed: int) -> dict[str, PartHealth]:
    """The jurors or principles: the parts that are no orders and stand within no other part."""
    owners = {_split(verdict.part)[0] for verdict in verdicts} - {""}
    outermost = sorted(part for part in owners if not any(part.startswith(f"{other}/") for other in owners))
    concluded = [verdict for verdict in verdicts if not verdict.part]
    found = {}
    for part in outermost:
        own = [verdict for verdict in verdicts if verdict.part == part]
        within = [verdict for verdict in verdicts if verdict.part.startswith(f"{part}/")]
        found[part] = PartHealth(
            agreement=_interval(_same_winners(concluded, own), derive_seed(seed, "agreement", part)),
            position_consistency=_interval(_orders_agree(within), derive_seed(seed, "position", part)),
            repetition_stability=_interval(_repeats_agree(within), derive_seed(seed, "repetition", part)),
            accuracy=_accuracy(concluded, own),
        )
    return found


def _accuracy(concluded: Sequence[Verdict], own: Sequence[Verdict]) -> float | None:
    """Over the comparisons that a part decided, the mean of the concluded probability that its winner is better."""
    winners = _winners(own)
    found: list[float] = []
    for verdict in concluded:
        if verdict.score is None or verdict.opponent_id is None:
            continue
        name, first, second = verdict.prompt_id, verdict.sample_id, verdict.opponent_id
        winner = winners.get((name, first, second)) or -winners.get((name, second, first), 0)
        found += [verdict.score if winner > 0 else 1 - verdict.score] if winner else []
    return math.fsum(found) / len(found) if found else None


def _same_winners(concluded: Sequence[Verdict], own: Sequence[Verdict]) -> Shares:
    """By prompt, whether a part names the winner that the judge concluded on, where both name one."""
    winners = _winners(own)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for (name, first, second), winner in _winners(concluded).items():
        theirs = winners.get((name, first, second)) or -winners.get((name, second, first), 0)
        if winner and theirs:
            found[name].append(winner == theirs)
    return found


def _winners(verdicts: Sequence[Verdict]) -> dict[Pair, int]:
    """Who won each comparison that the verdicts conclude on or that their scores imply."""
    found: dict[Pair, int] = {}
    alone: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.score is not None and verdict.opponent_id is None:
            alone[verdict.prompt_id][verdict.sample_id] = verdict.score
        elif verdict.score is not None and verdict.opponent_id is not None:
            found[verdict.prompt_id, verdict.sample_id, verdict.opponent_id] = _winner(verdict.score)
    for name, scored in alone.items():
        for first, second in itertools.combinations(sorted(scored), 2):
            tied = math.isclose(scored[first], scored[second], rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
            found.setdefault((name, first, second), 0 if tied else 1 if scored[first] > scored[second] else -1)
    return found
