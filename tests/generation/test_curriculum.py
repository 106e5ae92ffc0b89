"""A draw that leaves out solved prompts: if nothing is solved, it is the plain draw."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.artifacts import file_digest, write_table
from components.config import PromptsConfig
from components.data.prompts import draw
from components.generation.curriculum import Draw, EarlierDraw, draw_round, draw_unsolved, read_earlier
from components.records import Artifact, GenerateRequest, JudgedRound

POOL = [f"p{number}" for number in range(10)]


def play(
    pool: list[str], rounds: int, *, per_round: int, solved_rounds: int, solved: dict[int, set[str]], seed: int = 3
) -> list[Draw]:
    """Draw one round after another; `solved` are the prompts that a round shows to be solved if it draws them."""
    earlier: list[EarlierDraw] = []
    draws = []
    for round in range(1, rounds + 1):
        drawn = draw_unsolved(pool, earlier, round=round, per_round=per_round, seed=seed, solved_rounds=solved_rounds)
        draws.append(drawn)
        names = frozenset(drawn.prompts)
        earlier.append(EarlierDraw(round, names, names & solved.get(round, set())))
    return draws


@given(size=st.integers(1, 20), per_round=st.integers(1, 25), rounds=st.integers(1, 8), seed=st.integers(0, 4))
def test_draw_where_nothing_is_solved_is_the_plain_draw(size: int, per_round: int, rounds: int, seed: int) -> None:
    pool = [f"p{number}" for number in range(size)]
    found = play(pool[::-1], rounds, per_round=per_round, solved_rounds=2, solved={}, seed=seed)
    assert found == [
        Draw(draw(pool, round=round, per_round=per_round, seed=seed), 0, 0) for round in range(1, rounds + 1)
    ]


def test_solved_prompts_rest_as_many_rounds_as_configured() -> None:
    first = set(play(POOL, 1, per_round=4, solved_rounds=2, solved={})[0].prompts)
    solved = set(sorted(first)[:3])
    draws = play(POOL, 5, per_round=4, solved_rounds=2, solved={1: solved})
    assert not (set(draws[1].prompts) | set(draws[2].prompts)) & solved
    assert [drawn.left_out for drawn in draws] == [0, 3, 3, 0, 0]
    assert solved <= {*draws[3].prompts, *draws[4].prompts}, "eight prompts were drawn once by then, these among them"
    assert all(drawn.filled_up == 0 and len(set(drawn.prompts)) == 4 for drawn in draws)


def test_too_few_unsolved_prompts_are_filled_up_with_the_longest_solved() -> None:
    earlier = [
        EarlierDraw(1, frozenset(POOL[:4]), frozenset(POOL[:4])),
        EarlierDraw(2, frozenset(POOL[4:8]), frozenset(POOL[4:8])),
    ]
    found = draw_unsolved(POOL, earlier, round=3, per_round=5, seed=3, solved_rounds=9)
    assert set(found.prompts[:2]) == {"p8", "p9"}
    assert set(found.prompts[2:]) < set(POOL[:4])
    assert (found.left_out, found.filled_up) == (5, 3)
    assert len(draw_unsolved(POOL, earlier, round=3, per_round=99, seed=3, solved_rounds=9).prompts) == 10


def test_prompt_that_is_no_longer_solved_is_drawn_like_the_others() -> None:
    earlier = [EarlierDraw(1, frozenset(POOL), frozenset(POOL)), EarlierDraw(2, frozenset(POOL[:5]), frozenset())]
    found = draw_unsolved(POOL, earlier, round=3, per_round=5, seed=3, solved_rounds=9)
    assert set(found.prompts) == set(POOL[:5])


def outcomes(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": list("abcdef")[: len(columns["outcome"])], **columns})


def test_prompts_without_a_preference_are_solved_and_those_without_verdicts_are_not() -> None:
    table = outcomes(
        outcome=["ties", "below_margin", "no_verdict", "not_compared", "paired", "paired"],
        pairs=[0, 0, 0, 0, 3, 2],
        tied_pairs=[0, 0, 0, 0, 1, 2],
        mean_score=[1.0, 1.0, None, 9.0, 5.0, 1.0],
    )
    assert read_earlier(4, table, solved_score=None) == EarlierDraw(4, frozenset("abcdef"), frozenset("abf"))
    assert read_earlier(4, table, solved_score=5.0).solved == frozenset("abdef")


def test_request_is_drawn_by_the_tables_of_earlier_rounds(tmp_path: Path) -> None:
    path = tmp_path / "prompt_outcomes.parquet"
    table = pd.DataFrame({"prompt_id": POOL[:6], "outcome": "ties", "pairs": 0, "tied_pairs": 0, "mean_score": 1.0})
    write_table(path, table)
    judged = JudgedRound(round=1, outcomes=Artifact(path=path, digest=file_digest(path)))

    def drawn(**changes: Any) -> Draw:
        values: dict[str, Any] = {
            "round": 2,
            "per_round": 4,
            "campaign_seed": 3,
            "solved_rounds": 1,
            "solved_score": None,
        }
        return draw_round(POOL, GenerateRequest.model_construct(**values | {"earlier": (judged,)} | changes))

    assert set(drawn().prompts) == set(POOL[6:])
    assert drawn(round=3).left_out == 0
    assert drawn(solved_rounds=0, earlier=()) == Draw(draw(POOL, round=2, per_round=4, seed=3), 0, 0)


def test_bar_without_rest_is_refused() -> None:
    with pytest.raises(ValueError, match="set `solved_rounds`, such as 3"):
        PromptsConfig(solved_score=1.0)
