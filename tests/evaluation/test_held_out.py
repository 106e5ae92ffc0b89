from collections import Counter

import pandas as pd
import pytest

from components.data.columns import COLUMNS
from components.evaluation.held_out import audit_ids, gate_ids, tags_of

POOL: dict[str, str | None] = {f"p{number:03d}": "math" if number < 30 else "chat" for number in range(120)}


def drawn(round: int, *, size: int = 24, audit_share: float = 0.2, seed: int = 1) -> list[str]:
    return gate_ids(POOL, round=round, size=size, audit_share=audit_share, seed=seed)[0]


def test_gate_never_sees_the_prompts_of_audits() -> None:
    kept = set(audit_ids(list(POOL), share=0.2, seed=1))
    assert len(kept) == 24
    seen = {name for round in range(1, 40) for name in drawn(round)}
    assert seen == POOL.keys() - kept


def test_gate_sees_every_prompt_once_before_it_sees_one_again() -> None:
    first = [drawn(round) for round in range(1, 5)]
    assert len({name for names in first for name in names}) == 96
    assert sorted(Counter(name for round in range(1, 9) for name in drawn(round)).values()) == [2] * 96


def test_gate_says_when_it_has_seen_its_prompts_before() -> None:
    told = [gate_ids(POOL, round=round, size=24, audit_share=0.2, seed=1)[1] for round in range(1, 7)]
    assert told == [False, False, False, False, True, True]


def test_gate_takes_the_same_prompts_again_for_the_same_round_whatever_their_order() -> None:
    other = dict(reversed(POOL.items()))
    assert gate_ids(other, round=3, size=24, audit_share=0.2, seed=1)[0] == drawn(3)
    assert drawn(3, seed=2) != drawn(3) != drawn(4)


def test_gate_gives_each_tag_its_share_in_random_order() -> None:
    kept = set(audit_ids(list(POOL), share=0.2, seed=1))
    share = sum(POOL[name] == "math" for name in POOL.keys() - kept) / 96
    for round in range(1, 4):
        tags = [POOL[name] for name in drawn(round)]
        assert abs(tags.count("math") - 24 * share) < 1
        assert tags != sorted(tags, key=str)
        assert tags != sorted(tags, key=str, reverse=True)


def test_gate_takes_all_that_audits_leave_of_a_small_pool() -> None:
    assert len(drawn(1, size=500)) == 96
    assert len(drawn(1, size=500, audit_share=0.0)) == 120


@pytest.mark.parametrize(("size", "share", "kept"), [(1, 0.9, 0), (2, 0.9, 1), (10, 0.04, 0), (10, 0.5, 5)])
def test_audit_leaves_at_least_one_prompt_to_the_gates(size: int, share: float, kept: int) -> None:
    assert len(audit_ids([f"p{number}" for number in range(size)], share=share, seed=1)) == kept


def test_tags_of_a_table_are_those_of_its_column() -> None:
    table = pd.DataFrame(
        {"prompt_id": ["a", "b", "c"], "messages": [""] * 3, COLUMNS: ['{"kind": "math"}', "{}", '{"kind": 3}']}
    )
    assert tags_of(table, "kind") == {"a": "math", "b": None, "c": None}
    assert tags_of(table.drop(columns=COLUMNS), "kind") == tags_of(table, "") == dict.fromkeys("abc")
