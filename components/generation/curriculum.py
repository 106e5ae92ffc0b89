"""A draw of prompts that leaves out prompts that the policy has solved.

Pure, except that it reads the outcomes of earlier rounds.

A round shows a prompt to be solved if its responses gave no preference to learn (all tied, or none better by the
margin), or if their mean score reached a bar. The prompt then rests for some rounds and is drawn again like the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from components.artifacts import read_table
from components.data.draws import Traits, draw_by_weight, pools_by_tag, quotas
from components.data.prompts import draw, place_in_pass
from components.records import GenerateRequest

NO_PREFERENCE = ("ties", "below_margin")


class Draw(NamedTuple):
    """The prompts of a round."""

    prompts: list[str]
    left_out: int
    """Number of solved prompts that rest."""
    filled_up: int
    """Number of solved prompts that were drawn nevertheless, because too few others were left."""


class EarlierDraw(NamedTuple):
    """The prompts of an earlier round, and those that it solved."""

    round: int
    drawn: frozenset[str]
    solved: frozenset[str]
    """Drawn prompts that the round showed to be solved."""


def draw_round(pool: Iterable[str], request: GenerateRequest, traits: Mapping[str, Traits] | None = None) -> Draw:
    """Draw the prompts of a request: from all of them, or from those of each tag as many as its share says.

    Args:
        pool: Prompt ids; their order does not matter.
        request: The round, and how it draws.
        traits: Tag and weight of each prompt; None if neither matters.
    """
    names = sorted(set(pool))
    shares = request.tag_shares
    if traits is None or not shares:
        return _draw_from(names, request, request.per_round, traits)
    pools = pools_by_tag({name: traits[name].tag for name in names}, shares)
    counts = quotas(min(request.per_round, len(names)), shares)
    draws = [_draw_from(pools[tag], request, count, traits) for tag, count in counts.items() if count]
    prompts = [name for drawn in draws for name in drawn.prompts]
    return Draw(prompts, sum(drawn.left_out for drawn in draws), sum(drawn.filled_up for drawn in draws))


def _draw_from(
    pool: Sequence[str], request: GenerateRequest, per_round: int, traits: Mapping[str, Traits] | None
) -> Draw:
    """Draw from a pool, by `prompts.draw`, by weight or, if solved prompts rest, by `draw_unsolved`."""
    if traits is not None and request.weight_column:
        weights = {name: traits[name].weight for name in pool}
        drawn = draw_by_weight(weights, round=request.round, per_round=per_round, seed=request.campaign_seed)
        return Draw(drawn, 0, 0)
    if not request.solved_rounds:
        return Draw(draw(pool, round=request.round, per_round=per_round, seed=request.campaign_seed), 0, 0)
    earlier = [
        read_earlier(judged.round, read_table(judged.outcomes), solved_score=request.solved_score)
        for judged in request.earlier
    ]
    return draw_unsolved(
        pool,
        earlier,
        round=request.round,
        per_round=per_round,
        seed=request.campaign_seed,
        solved_rounds=request.solved_rounds,
    )


def read_earlier(round: int, outcomes: pd.DataFrame, *, solved_score: float | None) -> EarlierDraw:
    """Return the drawn and the solved prompts of a round from its `prompt_outcomes.parquet`.

    Args:
        round: The round's index.
        outcomes: Columns prompt_id, outcome, pairs, tied_pairs and mean_score.
        solved_score: Mean score from which on a prompt is solved whatever its pairs; None sets no bar.
    """
    solved = outcomes["outcome"].isin(NO_PREFERENCE) | (
        (outcomes["pairs"] > 0) & (outcomes["pairs"] == outcomes["tied_pairs"])
    )
    if solved_score is not None:
        solved |= outcomes["mean_score"] >= solved_score
    return EarlierDraw(round, frozenset(outcomes["prompt_id"]), frozenset(outcomes.loc[solved, "prompt_id"]))


def draw_unsolved(
    pool: Iterable[str], earlier: Sequence[EarlierDraw], *, round: int, per_round: int, seed: int, solved_rounds: int
) -> Draw:
    """Draw the prompts that were drawn least often, without solved prompts that rest.

    If nothing is solved, this is `prompts.draw`. If too few prompts are left, resting ones fill up the round, the
    longest solved first.

    Args:
        pool: Prompt ids; their order does not matter.
        earlier: All earlier rounds that drew prompts, oldest first.
        round: Index of the round, from 1.
        per_round: Number of prompts to draw; the whole pool if it is smaller.
        seed: The campaign's seed.
        solved_rounds: Number of rounds that a prompt rests after the round that showed it to be solved.
    """
    names = set(pool)
    times = Counter(name for past in earlier for name in past.drawn)
    last_drawn = {name: past for past in earlier for name in past.drawn}
    resting = {
        name: past.round
        for name, past in last_drawn.items()
        if name in past.solved and round - past.round <= solved_rounds
    }

    def place(name: str) -> tuple[int, str]:
        return times[name], place_in_pass(name, seed=seed, passes=times[name])

    free = sorted(names - resting.keys(), key=place)[:per_round]
    waiting = sorted(names & resting.keys(), key=lambda name: (resting[name], *place(name)))
    filled = waiting[: per_round - len(free)]
    return Draw([*free, *filled], len(waiting) - len(filled), len(filled))
