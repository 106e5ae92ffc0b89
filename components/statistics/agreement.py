"""Agreement of annotators with each other and with a judge, over pairs of answers. Pure.

A vote is the share of a vote that the first answer of a pair gets: 1 for the first, 0 for the second, 0.5 for a tie.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from components.records import Interval
from components.statistics.intervals import win_rate

Votes = Mapping[str, Mapping[str, float]]
"""By pair and annotator: the vote."""
CONFIDENCE, RESAMPLES = 0.95, 1000
LEVELS = (0.0, 0.5, 1.0)


def agreement_among(votes: Votes, *, seed: int) -> Interval | None:
    """Return how often two annotators who both decided prefer the same answer of a pair.

    This is the human-human agreement of the DPO paper (arXiv 2305.18290, Table 2). Each pair of answers counts once,
    by the share of its annotators' pairs that agree; ties are no decision. The interval is over pairs of answers, and
    a handful of them cannot make it narrow (`intervals.win_rate`).

    Returns:
        The agreement in [0, 1]; None if no two annotators decided the same pair.
    """
    shares = []
    for cast in votes.values():
        decided = [vote for vote in cast.values() if vote != 0.5]
        couples = list(itertools.combinations(decided, 2))
        if couples:
            shares.append(math.fsum(one == two for one, two in couples) / len(couples))
    return _mean(shares, seed)


def agreement_with(votes: Votes, judge: Mapping[str, float], *, seed: int) -> Interval | None:
    """Return how often a judge prefers the answer that an annotator prefers, if both decided.

    This is the judge-human agreement of the DPO paper's Table 2; otherwise as `agreement_among`.

    Args:
        votes: The annotators' votes.
        judge: By pair, the judge's probability that the first answer is better; above 0.5 it prefers the first.
        seed: Seed of the interval.
    """
    shares = []
    for pair, cast in votes.items():
        preferred = judge.get(pair, 0.5)
        decided = [vote for vote in cast.values() if vote != 0.5]
        if decided and preferred != 0.5:
            shares.append(math.fsum((vote > 0.5) == (preferred > 0.5) for vote in decided) / len(decided))
    return _mean(shares, seed)


def cohen_kappa(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Cohen's kappa (1960) of two raters over the same pairs, with ties as a category of their own.

    Returns:
        1 for full agreement, 0 for the agreement of chance; None if there is no pair, or if both raters gave one and
        the same answer throughout, where chance alone agrees fully.
    """
    from sklearn.metrics import cohen_kappa_score

    first, second = ([_category(vote) for vote in votes] for votes in (one, other))
    if len({*first, *second}) < 2:
        return None
    return float(cohen_kappa_score(first, second, labels=list(range(len(LEVELS)))))


def krippendorff_alpha(votes: Votes) -> float | None:
    """Return Krippendorff's alpha (2011), nominal, with ties as a category: any number of annotators, votes missing.

    Returns:
        1 for full agreement, 0 for the agreement of chance; None if fewer than two pairs have two votes, or if all such
        votes are the same.
    """
    from krippendorff import alpha

    shared = [cast for cast in votes.values() if len(cast) > 1]
    annotators = sorted({name for cast in shared for name in cast})
    values = {vote for cast in shared for vote in cast.values()}
    if len(shared) < 2 or len(values) < 2:
        return None
    table = np.array([[_category(cast[name]) if name in cast else np.nan for cast in shared] for name in annotators])
    return float(alpha(reliability_data=table, value_domain=list(range(len(LEVELS))), level_of_measurement="nominal"))


def _mean(shares: Sequence[float], seed: int) -> Interval | None:
    if not shares:
        return None
    # The bootstrap alone takes three agreements of three for certainty, and a judge's alarm with them.
    return win_rate(shares, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed)


def _category(vote: float) -> int:
    return 0 if vote < 0.5 else 2 if vote > 0.5 else 1
