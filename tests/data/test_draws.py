"""A round's draw by tag and by weight, worked by hand."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import PromptsConfig
from components.data.draws import Traits, check_draw, draw_by_weight, quotas, traits_of
from components.data.prompts import make_prompt


@pytest.mark.parametrize(
    ("size", "shares", "expected"),
    [
        (10, {"math": 0.5}, {"math": 5, None: 5}),
        (10, {"math": 0.25, "code": 0.25}, {"math": 3, "code": 2, None: 5}),
        # 0.1 + 0.2 is not 0.3 in binary, and nobody gets a prompt for that.
        (10, {"math": 0.1, "code": 0.2, "law": 0.7}, {"math": 1, "code": 2, "law": 7, None: 0}),
        (3, {"math": 0.5, "code": 0.5}, {"math": 2, "code": 1, None: 0}),
        (4, {"math": 0.0}, {"math": 0, None: 4}),
    ],
)
def test_quotas_are_the_shares_and_fractions_go_to_the_largest(
    size: int, shares: dict[str, float], expected: dict[str | None, int]
) -> None:
    assert quotas(size, shares) == expected


@given(st.integers(1, 60), st.lists(st.floats(0, 0.33), min_size=1, max_size=3))
def test_quotas_add_up_and_none_is_off_by_a_whole_prompt(size: int, shares: list[float]) -> None:
    by_tag = {str(place): share for place, share in enumerate(shares)}
    counts = quotas(size, by_tag)
    assert sum(counts.values()) == size
    assert all(abs(counts[tag] - share * size) < 1 + 1e-6 for tag, share in by_tag.items())


def drawn(weights: dict[str, float], rounds: int, per_round: int) -> list[list[str]]:
    return [draw_by_weight(weights, round=number, per_round=per_round, seed=3) for number in range(1, rounds + 1)]


def test_prompt_of_twice_the_weight_comes_up_twice_as_often() -> None:
    rounds = drawn({"a": 2.0, "b": 1.0, "c": 1.0, "d": 0.5}, rounds=18, per_round=1)
    assert Counter(name for names in rounds for name in names) == {"a": 8, "b": 4, "c": 4, "d": 2}
    by_two = drawn({"a": 2.0, "b": 1.0, "c": 1.0}, rounds=20, per_round=2)
    assert all(len(set(names)) == 2 for names in by_two), "none twice in a round"
    assert Counter(name for names in by_two for name in names) == {"a": 20, "b": 10, "c": 10}


def test_equal_weights_use_the_pool_up_before_any_prompt_comes_again() -> None:
    rounds = drawn(dict.fromkeys("abcdef", 0.3), rounds=4, per_round=3)
    for first, second in (rounds[:2], rounds[2:]):
        assert sorted(first + second) == list("abcdef")
    assert rounds == drawn(dict.fromkeys("fedcba", 0.3), rounds=4, per_round=3)


def config(**knobs: Any) -> PromptsConfig:
    return PromptsConfig(**{"train": "p.jsonl", "held_out": "", "per_round": 4, **knobs})


def test_weight_of_a_csv_file_is_the_number_that_its_text_says() -> None:
    assert traits_of({"w": "2.5", "t": "a"}, config(weight_column="w", tag_column="t"), "line 2") == Traits("a", 2.5)


@pytest.mark.parametrize(
    ("rows", "knobs", "says"),
    [
        ([{"tag": 7}], {"tag_column": "tag"}, "line 1: tag is 7, but a tag must be text, or left out"),
        ([{"tag": "a"}], {"tag_column": "kind"}, "prompts.tag_column = kind: no row of p.jsonl has such a column"),
        ([{"w": 1}, {}], {"weight_column": "w"}, "line 2: w is None, but a weight must be a number above 0"),
        ([{"w": 0}], {"weight_column": "w"}, "line 1: w is 0, but a weight must be"),
        ([{"w": "many"}], {"weight_column": "w"}, "line 1: w is 'many', but a weight must be"),
        ([{"w": "nan"}], {"weight_column": "w"}, "line 1: w is nan, but a weight must be"),
        ([{"w": True}], {"weight_column": "w"}, "line 1: w is True, but a weight must be"),
        (
            [{"tag": "a"}, *[{"tag": "b"}] * 5],
            {"tag_column": "tag", "tag_shares": {"a": 0.5}},
            "asks for 2 of 4 prompts of a round from prompts of the tag a, but there are 1: change the share, or lower",
        ),
        (
            [{"tag": "a"}] * 5,
            {"tag_column": "tag", "tag_shares": {"a": 0.5}},
            "asks for 2 of 4 prompts of a round from prompts of other tags, but there are 0",
        ),
        (
            [{"tag": "a"}] * 5,
            {"tag_column": "tag", "tag_shares": {"maths": 0.5}},
            "from prompts of the tag maths, but there are 0",
        ),
    ],
)
def test_draw_that_is_impossible_is_refused_at_the_start(
    rows: list[dict[str, Any]], knobs: dict[str, Any], says: str
) -> None:
    prompts = [
        make_prompt([{"role": "user", "content": str(number)}], f"line {number}", columns)
        for number, columns in enumerate(rows, 1)
    ]
    with pytest.raises(ValueError, match=says):
        check_draw(prompts, config(**knobs))


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"tag_shares": {"a": 0.5}}, "tag_shares needs the tags of the prompts"),
        ({"tag_column": "tag", "tag_shares": {"a": 0.5, "b": 0.6}}, "tag_shares add up to 1.1"),
        ({"weight_column": "w", "solved_rounds": 2}, "weight_column does not work with solved_rounds"),
        ({"tag_column": "tag", "train": "builtin"}, "the built-in prompts have no columns"),
    ],
)
def test_sections_that_contradict_themselves_are_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config(**knobs)
