"""A draw of prompts that lets those rest that the policy has solved.

Pure, but for reading what earlier rounds published.

A prompt is solved by a round in which its responses gave no preference to learn (all tied, or none better by the
margin), or in which their mean score reached a bar. It rests for some rounds and is then drawn again like the others.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from components.artifacts import read_table
from components.data.prompts import draw, place_in_pass
from components.records import GenerateRequest

NO_PREFERENCE = ("ties", "below_margin")


class Draw(NamedTuple):
    """The prompts of a round."""

    prompts: list[str]
    left_out: int
    """Solved prompts that rest."""
    filled_up: int
    """Solved prompts that were drawn all the same, because too few others were left."""


class EarlierDraw(NamedTuple):
    """What became of the prompts of an earlier round."""

    round: int
    drawn: frozenset[str]
    solved: frozenset[str]
    """Those of them that it showed to be solved."""


def draw_round(pool: Iterable[str], request: GenerateRequest) -> Draw:
    """Draws the prompts that a request asks for: `prompts.draw`, or one that knows of solved prompts."""
    if not request.solved_rounds:
        return Draw(draw(pool, round=request.round, per_round=request.per_round, seed=request.campaign_seed), 0, 0)
    earlier = [
        read_earlier(judged.round, read_table(judged.outcomes), solved_score=request.solved_score)
        for judged in request.earlier
    ]
    return draw_unsolved(
        pool,
        earlier,
        round=request.round,
        per_round=request.per_round,
        seed=request.campaign_seed,
        solved_rounds=request.solved_rounds,
    )


def read_earlier(round: int, outcomes: pd.DataFrame, *, solved_score: float | None) -> EarlierDraw:
    """Reads a round's `prompt_outcomes.parquet`.

    Args:
        round: The round's index.
        outcomes: Columns prompt_id, outcome, pairs, tied_pairs and mean_score.
        solved_score: Mean score from which a prompt is solved whatever its pairs; None sets no bar.
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
    """Draws the prompts that were drawn least often, and of the solved ones none while they rest.

    Where nothing is solved this is `prompts.draw`. Where too few prompts are left, resting ones fill up, the longest
    solved first.

    Args:
        pool: Prompt ids; their order does not matter.
        earlier: All earlier rounds that drew prompts, oldest first.
        round: Index of the round, from 1.
        per_round: Prompts wanted; the whole pool where it is smaller.
        seed: The campaign's seed.
        solved_rounds: Rounds that a prompt rests after the round that showed it to be solved.
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
