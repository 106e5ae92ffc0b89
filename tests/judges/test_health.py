"""A judge's health, measured on its verdicts."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from components.config import PreferencesConfig
from components.judges.health import measure_health
from components.judges.health_limits import check_limits
from components.judges.protocol import Group, Opinion, Verdict, conclude_pair, make_verdict
from components.records import JudgeUnavailable

NUM_PROMPTS = 40
GROUPS = [
    Group(f"p{number}", [{"role": "user", "content": f"{number}"}], ((0, "short"), (1, "longer one")))
    for number in range(NUM_PROMPTS)
]


def comparing(orders: Iterable[tuple[float | None, float | None]], groups: Sequence[Group] = GROUPS) -> list[Verdict]:
    """Return one comparison per prompt; each order has the share of the response that it shows first."""
    return [
        verdict
        for group, (forward, backward) in zip(groups, orders, strict=False)
        for verdict in conclude_pair("judge", group, 0, 1, forward=Opinion(forward), backward=Opinion(backward))
    ]


def scoring(scores: Iterable[tuple[float | None, ...]], groups: Sequence[Group] = GROUPS) -> list[Verdict]:
    return [
        make_verdict("judge", group, number, Opinion(score, "unreadable"))
        for group, given in zip(groups, scores, strict=False)
        for number, score in enumerate(given)
    ]


def test_health_of_a_judge_that_scores_has_no_consistency_and_no_stability() -> None:
    health = measure_health(scoring([(1.0, 2.0)] * NUM_PROMPTS), GROUPS, seed=1)
    assert health.position_consistency is None
    assert health.repetition_stability is None
    assert health.parts == {}
    assert health.invalid_share == 0


def test_health_of_no_verdicts_is_unknown() -> None:
    health = measure_health([], GROUPS, seed=1).model_dump()
    assert health.pop("parts") == {}
    assert set(health.values()) == {None}


@pytest.mark.parametrize(
    ("orders", "consistent", "ties"),
    [
        ((1.0, 0.0), 1.0, 0.0),
        ((0.0, 1.0), 1.0, 0.0),
        ((0.9, 0.4), 1.0, 0.0),
        ((1.0, 1.0), 0.0, 1.0),
        ((0.5, 0.5), 1.0, 1.0),
        ((0.5, 1.0), 0.0, 1.0),
    ],
)
def test_position_consistency_is_the_share_of_orders_that_name_one_winner(
    orders: tuple[float, float], consistent: float, ties: float
) -> None:
    health = measure_health(comparing([orders] * NUM_PROMPTS), GROUPS, seed=1)
    assert health.position_consistency is not None
    assert health.position_consistency.value == consistent
    assert health.tie_share is not None
    assert health.tie_share.value == ties


def test_position_consistency_leaves_out_comparisons_with_an_invalid_order() -> None:
    health = measure_health(comparing([(1.0, None), (1.0, 0.0), (1.0, 1.0)]), GROUPS, seed=1)
    assert health.position_consistency is not None
    assert (health.position_consistency.value, health.position_consistency.n) == (0.5, 2)
    assert health.invalid_share == pytest.approx(1 / 3)


def test_repetition_stability_compares_each_order_with_its_own_repetition() -> None:
    verdicts = comparing([(1.0, 0.0), (1.0, 0.0), (1.0, 0.0)])
    again = [make_verdict("judge", GROUPS[0], 0, Opinion(0.8), opponent_id=1, part="repeat forward")]
    again += [make_verdict("judge", GROUPS[0], 1, Opinion(0.7), opponent_id=0, part="repeat backward")]
    again += [make_verdict("judge", GROUPS[1], 0, Opinion(None, "?"), opponent_id=1, part="repeat forward")]
    health = measure_health([*verdicts, *again], GROUPS, seed=1)
    assert health.repetition_stability is not None
    assert (health.repetition_stability.value, health.repetition_stability.n) == (0.5, 1)
    assert health.position_consistency is not None
    assert (health.position_consistency.value, health.position_consistency.n) == (1.0, 3)


def test_length_preference_is_the_share_of_decided_comparisons_that_the_longer_response_won() -> None:
    orders = [(0.0, 1.0)] * 30 + [(1.0, 0.0)] * 6 + [(0.5, 0.5)] * 4
    health = measure_health(comparing(orders), GROUPS, seed=1)
    assert health.length_preference is not None
    assert health.length_preference.value == pytest.approx(30 / 36)
    assert health.length_preference.low > 0.5
    assert health.mean_length_difference == pytest.approx((30 * 5 - 6 * 5) / 36)


def test_length_preference_of_a_judge_that_scores_is_over_all_pairs_of_different_responses() -> None:
    group = Group(
        "p",
        [{"role": "user", "content": "q"}],
        ((0, "a"), (1, "bbb"), (2, "cc"), (3, "a "), (4, "dd"), (5, "unscored")),
    )
    verdicts = scoring([(1.0, 3.0, 0.0, 1.0, 3.0, None)], [group])
    health = measure_health(verdicts, [group], seed=1)
    # Pairs of different texts: a-bbb, a-cc, a-dd, bbb-cc, bbb-a, bbb-dd (tie), cc-a, cc-dd (same length), a-dd; twice
    # "a" alone is not a pair.
    assert health.length_preference is not None
    assert health.length_preference.value == pytest.approx(5 / 7)
    assert health.tie_share is not None
    assert health.tie_share.value == pytest.approx(1 / 9)
    assert health.mean_length_difference == pytest.approx((2 - 1 + 1 + 1 + 2 - 1 + 0 + 1) / 8)


def test_health_counts_each_prompt_once_however_many_responses_it_has() -> None:
    many = Group("many", [{"role": "user", "content": "q"}], tuple((number, "x" * (number + 1)) for number in range(8)))
    verdicts = [*scoring([tuple(float(number) for number in range(8))], [many]), *scoring([(2.0, 1.0)])]
    health = measure_health(verdicts, [many, *GROUPS], seed=1)
    assert health.length_preference is not None
    assert (health.length_preference.value, health.length_preference.n) == (0.5, 2)


def as_part(verdicts: Sequence[Verdict], juror: str) -> list[Verdict]:
    return [replace(verdict, part=f"{juror}/{verdict.part}" if verdict.part else juror) for verdict in verdicts]


def test_parts_of_a_jury_tell_who_agrees_with_it() -> None:
    concluded = [verdict for verdict in comparing([(1.0, 0.0)] * 10) if not verdict.part]
    steady = as_part(comparing([(0.9, 0.2)] * 10), "llm:org/model")
    contrary = as_part(comparing([(0.0, 1.0)] * 8 + [(1.0, 1.0)] * 2), "contrary")
    scorer = as_part(scoring([(2.0, 1.0)] * 5 + [(1.0, 2.0)] * 5), "rule:x")
    silent = as_part(scoring([(None, None)] * 10), "silent")
    health = measure_health([*steady, *contrary, *scorer, *silent, *concluded], GROUPS, seed=1)
    assert list(health.parts) == ["contrary", "llm:org/model", "rule:x", "silent"]
    agreement = {
        name: part.agreement and (part.agreement.value, part.agreement.n) for name, part in health.parts.items()
    }
    assert agreement == {"contrary": (0.0, 8), "llm:org/model": (1.0, 10), "rule:x": (0.5, 10), "silent": None}
    assert {name: part.accuracy for name, part in health.parts.items()} == {
        "contrary": pytest.approx(0.0),
        "llm:org/model": pytest.approx(1.0),
        "rule:x": pytest.approx(0.5),
        "silent": None,
    }
    consistent = {
        name: part.position_consistency and part.position_consistency.value for name, part in health.parts.items()
    }
    assert consistent == {"contrary": 0.8, "llm:org/model": 1.0, "rule:x": None, "silent": None}
    assert health.position_consistency is not None
    assert health.position_consistency.value == pytest.approx((8 * 1 + 2 * 0.5) / 10)


def test_health_twice_is_the_same() -> None:
    verdicts = comparing([(1.0, 0.0), (1.0, 1.0)] * 20)
    assert measure_health(verdicts, GROUPS, seed=3) == measure_health(verdicts, GROUPS, seed=3)


@pytest.mark.parametrize(
    ("knob", "value", "verdicts", "message"),
    [
        (
            "min_position_consistency",
            0.7,
            comparing([(1.0, 1.0), (1.0, 0.0)] * 20),
            r"position consistency is 0\.500 .* over 40 prompts, below",
        ),
        (
            "max_tie_share",
            0.3,
            comparing([(0.5, 0.5), (1.0, 0.0)] * 20),
            r"tie share is 0\.500 .* above preferences.max_tie_share = 0\.3; ",
        ),
        (
            "max_length_preference",
            0.8,
            scoring([(1.0, 2.0)] * NUM_PROMPTS),
            r"length preference is 1\.000 .*depend on length",
        ),
    ],
)
def test_limit_that_is_broken_beyond_chance_stops_the_round(
    knob: str, value: float, verdicts: list[Verdict], message: str
) -> None:
    at_limit = 0.5 if knob != "max_length_preference" else 0.95
    check_limits("judge", measure_health(verdicts, GROUPS, seed=1), PreferencesConfig(**{knob: at_limit}))
    with pytest.raises(JudgeUnavailable, match=message):
        check_limits("judge", measure_health(verdicts, GROUPS, seed=1), PreferencesConfig(**{knob: value}))


def test_limit_on_repetition_stops_a_judge_that_contradicts_itself() -> None:
    verdicts = comparing([(1.0, 0.0)] * NUM_PROMPTS)
    again = [make_verdict("judge", group, 0, Opinion(0.0), opponent_id=1, part="repeat forward") for group in GROUPS]
    with pytest.raises(
        JudgeUnavailable,
        match=r"judge judge: its repetition stability is 0\.000 .* below preferences.min_repetition_stability",
    ):
        check_limits("judge", measure_health([*verdicts, *again], GROUPS, seed=1), PreferencesConfig())


def test_limit_is_not_broken_by_a_handful_of_prompts() -> None:
    check_limits("judge", measure_health(comparing([(1.0, 1.0)] * 2), GROUPS, seed=1), PreferencesConfig())


def test_limit_is_not_broken_by_what_cannot_be_measured() -> None:
    strict = PreferencesConfig(
        min_position_consistency=1.0, min_repetition_stability=1.0, max_tie_share=0.0, max_length_preference=0.0
    )
    check_limits("judge", measure_health([], GROUPS, seed=1), strict)
