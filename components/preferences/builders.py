"""Builders: choose the pairs to train on among those that prompts offer. Pure; knows no judge, file or stage.

`candidates` decides which two answers may be a pair and with which label: equal texts never, equal scores only if ties
are kept. No builder's choice depends on the order of the prompts.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from components.artifacts import derive_seed
from components.config import PreferencesConfig
from components.judges.protocol import SCORE_NOISE
from components.preferences.candidates import Candidates, JudgedAnswer, JudgedPrompt, Pair

Choose = Callable[[Sequence[Candidates], PreferencesConfig, int], list[list[Pair]]]
"""(candidates per prompt, configuration, the stage's seed) -> at least one pair per prompt, in the prompts' order."""


class Builder(NamedTuple):
    """A way to choose pairs."""

    choose: Choose
    rescored: Callable[[JudgedPrompt], JudgedPrompt] = lambda prompt: prompt
    """Replaces the scores whose differences are the margins; by default the judge's scores stay as they are."""


def best_worst(offered: Candidates) -> list[Pair]:
    """Return the best answer and the worst; among equals the first sampled."""
    return [_against_worst(_of_best(offered.clearest))]


def best_random(offered: Candidates, seed: int) -> list[Pair]:
    """Return the best answer and one drawn at random among those that may be rejected for it."""
    against = sorted(_of_best(offered.clearest), key=lambda pair: pair.rejected.sample_id)
    return [random.Random(derive_seed(seed, offered.prompt.prompt_id)).choice(against)]


def all_pairs(offered: Candidates) -> list[Pair]:
    """Return every pair."""
    return sorted([*offered.decided, *offered.tied], key=_place)


def top_k(offered: Candidates, k: int) -> list[Pair]:
    """Pair each of the `k` best answers with the worst of the others that it is preferred to."""
    ranked = sorted(offered.prompt.answers, key=_rank)
    best = [answer for answer in ranked if not answer.never_chosen][: min(k, len(ranked) - 1)]
    rest = {answer.sample_id for answer in ranked[len(best) :]}
    picked = []
    for answer in best:
        for pairs in (offered.decided, offered.tied):
            against = [pair for pair in pairs if pair.chosen == answer and pair.rejected.sample_id in rest]
            if against:
                picked.append(_against_worst(against))
                break
    return picked or best_worst(offered)


def length_balanced(offers: Sequence[Candidates], preferences: PreferencesConfig, seed: int) -> list[list[Pair]]:
    """Return one pair per prompt so that, over the round, chosen answers are about as long as rejected ones.

    Prompts are visited in the order of their ids, which are hashes. Each gives the pair whose difference in length, in
    characters, best offsets the sum over the earlier pairs; among equals the one with the largest margin.
    """
    surplus = 0
    chosen: dict[str, list[Pair]] = {}
    for offered in sorted(offers, key=lambda offered: offered.prompt.prompt_id):
        pair = min(offered.clearest, key=lambda pair: (abs(surplus + _growth(pair)), -pair.margin, _place(pair)))
        surplus += _growth(pair)
        chosen[offered.prompt.prompt_id] = [pair]
    return [chosen[offered.prompt.prompt_id] for offered in offers]


def by_win_rate(prompt: JudgedPrompt) -> JudgedPrompt:
    """Return the prompt with each answer's score replaced by its win rate against the policy's other answers."""
    rates = win_rates(prompt)
    return replace(prompt, answers=tuple(replace(answer, score=rates[answer.sample_id]) for answer in prompt.answers))


BUILDERS: dict[str, Builder] = {
    "best_worst": Builder(lambda offers, preferences, seed: [best_worst(offered) for offered in offers]),
    "best_random": Builder(lambda offers, preferences, seed: [best_random(offered, seed) for offered in offers]),
    "all_pairs": Builder(lambda offers, preferences, seed: [all_pairs(offered) for offered in offers]),
    "top_k": Builder(lambda offers, preferences, seed: [top_k(offered, preferences.top_k) for offered in offers]),
    "length_balanced": Builder(length_balanced),
    "nash": Builder(
        lambda offers, preferences, seed: [best_worst(offered) for offered in offers], rescored=by_win_rate
    ),
}


def _rank(answer: JudgedAnswer) -> tuple[float, int]:
    return -answer.score, answer.sample_id


def _of_best(pairs: Sequence[Pair]) -> list[Pair]:
    best = min((pair.chosen for pair in pairs), key=_rank)
    return [pair for pair in pairs if pair.chosen == best]


def _against_worst(pairs: Sequence[Pair]) -> Pair:
    return min(pairs, key=lambda pair: (pair.rejected.score, pair.rejected.sample_id))


def _growth(pair: Pair) -> int:
    return len(pair.chosen.text) - len(pair.rejected.text)


def _place(pair: Pair) -> tuple[int, int]:
    return pair.chosen.sample_id, pair.rejected.sample_id


def win_rates(prompt: JudgedPrompt) -> dict[int, float]:
    """Estimate the probability that each answer beats one that the policy draws, by the answer's `sample_id`.

    This is the payoff of self-play on preferences (SPPO, arXiv 2405.00675; Nash learning, arXiv 2312.00886): the mean
    probability that the answer wins against the prompt's other responses. A comparison by the judge counts as it is. If
    the judge scores each response alone, the sign of the difference counts. Responses of the same text tie. Answers
    that were not compared do not count.

    Args:
        prompt: At least two responses with a score.
    """
    return {answer.sample_id: _win_rate(answer, prompt) for answer in prompt.answers}


def _win_rate(answer: JudgedAnswer, prompt: JudgedPrompt) -> float:
    twins = len(answer.sample_ids) - 1
    won, met = [0.5 * twins], twins
    for other in prompt.answers:
        probability = 0.5 if other == answer else _wins(answer, other, prompt)
        if other != answer and probability is not None:
            won.append(probability * len(other.sample_ids))
            met += len(other.sample_ids)
    return math.fsum(won) / met if met else 0.5


def _wins(answer: JudgedAnswer, other: JudgedAnswer, prompt: JudgedPrompt) -> float | None:
    if prompt.comparisons:
        return prompt.comparisons.get((answer.sample_id, other.sample_id))
    if math.isclose(answer.score, other.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE):
        return 0.5
    return 1.0 if answer.score > other.score else 0.0
