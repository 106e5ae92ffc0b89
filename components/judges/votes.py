"""Turns a jury's votes on pairs of responses into one probability per pair. Pure; knows no judge.

A vote is the share of a vote that the pair's first response gets, in [0, 1]: 1 for the first, 0 for the second, 0.5 for
a tie. A juror who abstains has no vote. No method returns certainty: each adds a small prior (`PRIOR_VOTES`,
`PRIOR_RIGHT`, `PRIOR_WRONG`).
"""

import contextlib
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from components.judges.protocol import SCORE_NOISE

PRIOR_VOTES = 1.0
"""Votes that each response of a pair has before the jury votes: Laplace's rule of succession, so 3:0 gives 4/5 and not
1."""
PRIOR_RIGHT, PRIOR_WRONG = 4.0, 1.0
"""Pseudo-counts of judgements per juror, right and wrong in each way, for the estimate of its reliability. They fix
which end of the scale is which, and keep a juror without an observed error from counting as infallible."""
COUNTED = 100
"""crowd-kit counts whole wins: votes are counted in hundredths."""
STRENGTH_STEPS, RELIABILITY_STEPS = 200, 200
UNSETTLED = 1e-6
"""Distance from 0.5 that the iterations may leave of a tie."""
FIRST, SECOND, TIE = "first", "second", "tie"
SWAPPED = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}


class PairKey(NamedTuple):
    """Two responses to one prompt, by their sample ids."""

    prompt_id: str
    first: int
    second: int


Votes = Mapping[PairKey, Mapping[str, float]]
"""By pair and juror: the vote. A pair has at least one vote; jurors who abstain are absent."""
Probabilities = dict[PairKey, float]
"""By pair: the probability that its first response is better."""


def majority(votes: Votes, weights: Mapping[str, float]) -> Probabilities:
    """Return the weighted share of the votes, with `PRIOR_VOTES` added to each side.

    P = (votes for the first + 1) / (all votes + 2).
    """
    return {pair: _share(cast, weights) for pair, cast in votes.items()}


def bradley_terry(votes: Votes, weights: Mapping[str, float]) -> Probabilities:
    """Fit strengths of each prompt's responses to its votes (Bradley and Terry 1952).

    P = sigmoid(difference of log-strengths).

    A vote for a over b and one for b over c also support a over c. Each pair with a vote gets `PRIOR_VOTES` for each
    side, so that no strength is infinite. With two responses, p equals the one of `majority`.
    """
    by_prompt: defaultdict[str, dict[PairKey, Mapping[str, float]]] = defaultdict(dict)
    for pair, cast in votes.items():
        by_prompt[pair.prompt_id][pair] = cast
    probabilities: Probabilities = {}
    for pairs in by_prompt.values():
        strengths = _strengths(pairs, weights)
        probabilities |= {
            pair: strengths[pair.first] / (strengths[pair.first] + strengths[pair.second]) for pair in pairs
        }
    return {pair: probabilities[pair] for pair in votes}


def dawid_skene(votes: Votes, weights: Mapping[str, float]) -> Probabilities:
    """Estimate each juror's reliability over all pairs, and with it the pairs' true answers (Dawid and Skene 1979).

    Answers are `first`, `second` and, if a juror ever votes so, `tie`; p = P(first) + P(tie) / 2. Every pair is also
    entered with its responses swapped, so that no juror and no prior leans to one side. The estimate needs jurors who
    are right more often than wrong: it cannot distinguish most jurors being wrong in the same way from most being
    right. Jurors count as independent: jurors that share their errors, such as one model asked twice, get too much
    trust.

    Args:
        votes: The votes on all pairs of a round, the more the better.
        weights: Not used: the estimate replaces them.
    """
    if not votes:
        return {}
    import pandas as pd
    from crowdkit.aggregation import DawidSkene

    answers = sorted({answer for cast in votes.values() for answer in map(_answer, cast.values())} | {FIRST, SECOND})
    rows: list[tuple[object, str, str]] = []
    for pair, cast in sorted(votes.items()):
        for juror, vote in sorted(cast.items()):
            answer = _answer(vote)
            rows += [((pair, "as asked"), juror, answer), ((pair, "swapped"), juror, SWAPPED[answer])]
    prior, truths = _prior_rows({juror for _, juror, _ in rows}, answers)
    table = pd.DataFrame([*rows, *prior], columns=["task", "worker", "label"])
    tasks, names = pd.factorize(table["task"])
    known = pd.Series({number: truths[name] for number, name in enumerate(names) if name in truths})
    with _quiet():
        posterior = DawidSkene(n_iter=RELIABILITY_STEPS, tol=1e-7).fit_predict_proba(table.assign(task=tasks), known)
    numbers = {name: number for number, name in enumerate(names)}
    probabilities = posterior.to_dict("index")
    return {pair: _probability(probabilities[numbers[pair, "as asked"]]) for pair in votes}


VOTES: dict[str, Callable[[Votes, Mapping[str, float]], Probabilities]] = {
    "majority": majority,
    "bradley_terry": bradley_terry,
    "dawid_skene": dawid_skene,
}
"""By the configured name, the method that turns votes and the jurors' weights into probabilities."""


def aggregate_votes(method: str, votes: Votes, weights: Mapping[str, float]) -> Probabilities:
    """Return the probabilities by one of `VOTES`; a tie is exactly 0.5."""
    return {pair: 0.5 if abs(p - 0.5) < UNSETTLED else p for pair, p in VOTES[method](votes, weights).items()}


def vote_of(first: float, second: float) -> float:
    """Return the vote that follows from two scores.

    The higher score gets the vote; scores that differ by rounding only are a tie.
    """
    if math.isclose(first, second, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE):
        return 0.5
    return 1.0 if first > second else 0.0


def _share(cast: Mapping[str, float], weights: Mapping[str, float]) -> float:
    for_first = math.fsum(weights[juror] * vote for juror, vote in cast.items())
    return (for_first + PRIOR_VOTES) / (math.fsum(weights[juror] for juror in cast) + 2 * PRIOR_VOTES)


def _strengths(votes: Mapping[PairKey, Mapping[str, float]], weights: Mapping[str, float]) -> Mapping[int, float]:
    """Fit the strength of each response to one prompt; strengths are positive and sum to 1."""
    import numpy as np
    import pandas as pd
    from crowdkit.aggregation import BradleyTerry

    rows: list[tuple[int, int, int]] = []
    counts: list[int] = []
    for pair, cast in sorted(votes.items()):
        for winner in (pair.first, pair.second):
            shares = [weights[juror] * (vote if winner == pair.first else 1 - vote) for juror, vote in cast.items()]
            rows.append((pair.first, pair.second, winner))
            counts.append(round(COUNTED * (PRIOR_VOTES + math.fsum(shares))))
    table = pd.DataFrame(np.repeat(np.array(rows), counts, axis=0), columns=["left", "right", "label"])
    # With a tolerance above 0 crowd-kit 1.4 compares an array with itself and stops after two steps.
    strengths = BradleyTerry(n_iter=STRENGTH_STEPS, tol=0.0).fit_predict(table)
    return {int(response): float(strength) for response, strength in zip(strengths.index, strengths, strict=True)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the deprecation warnings of crowd-kit and pandas, about which the user can do nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="crowdkit|pandas")
        yield


def _answer(vote: float) -> str:
    return FIRST if vote > 0.5 else SECOND if vote < 0.5 else TIE


def _probability(posterior: Mapping[Any, float]) -> float:
    return float(posterior[FIRST] + posterior.get(TIE, 0.0) / 2)


def _prior_rows(jurors: set[str], answers: Sequence[str]) -> tuple[list[tuple[object, str, str]], dict[object, str]]:
    """Return the prior in the form that crowd-kit takes: rows of pairs with known answers, and those answers."""
    rows: list[tuple[object, str, str]] = []
    truths: dict[object, str] = {}
    for juror in sorted(jurors):
        for truth in answers:
            for answer in answers:
                for number in range(round(PRIOR_RIGHT if answer == truth else PRIOR_WRONG)):
                    task = (juror, truth, answer, number)
                    truths[task] = truth
                    rows.append((task, juror, answer))
    return rows, truths
