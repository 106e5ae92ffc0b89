from types import SimpleNamespace
from typing import Any

import pytest

from components.promotion.levels import level_of_account, level_of_next
from components.records import Evidence


def rounds(*outcomes: tuple[bool, float]) -> list[Any]:
    """Return records of rounds with (shown, e_value), each at the level that it had."""
    records: list[Any] = []
    for shown, e_value in outcomes:
        level = level_of_next(records, false_promotion_rate=0.05)
        evidence = Evidence(level=level, e_value=e_value, shown=shown, num_judged=9, num_prompts=9)
        records.append(SimpleNamespace(evidence=evidence))
    return records


def levels(records: list[Any]) -> list[float]:
    return [record.evidence.level for record in records]


def test_levels_of_rounds_without_evidence_add_up_to_the_rate_and_no_more() -> None:
    lost = levels(rounds(*[(False, 0.0)] * 400))
    assert lost[:2] == pytest.approx([0.05 * (1 - 0.5**0.5), 0.05 * (0.5**0.5 - (1 / 3) ** 0.5)], rel=0.1)
    assert 0.95 * 0.05 * (1 - 401**-0.5) < sum(lost) < 0.05
    assert min(lost) > 0


def test_level_has_two_digits_and_is_rounded_down() -> None:
    assert level_of_account(0.05, 1) == pytest.approx(0.014, abs=1e-12)  # 0.014645
    assert level_of_account(0.05, 99) < 0.05 * (1 - 0.99**0.5)


def test_level_stays_while_rounds_show_better_models() -> None:
    shown = levels(rounds(*[(True, 60.0)] * 50))
    assert len(set(shown)) == 1


def test_level_of_a_round_that_showed_its_model_is_given_back_though_a_guard_refused_it() -> None:
    assert level_of_next(rounds((True, 70.0)), false_promotion_rate=0.05) == level_of_next(
        [], false_promotion_rate=0.05
    )


def test_level_left_of_a_round_is_given_back_but_never_more() -> None:
    lost, half, grown = (
        level_of_next(rounds((False, e_value)), false_promotion_rate=0.05) for e_value in (0.0, 0.5, 3.0)
    )
    accounts = (0.05 - 0.014, 0.05 - 0.007, 0.05)
    assert (lost, half, grown) == pytest.approx([level_of_account(account, 2) for account in accounts], rel=1e-12)
    assert lost < half < grown


def test_level_of_a_campaign_of_an_earlier_version_begins_anew() -> None:
    former = [SimpleNamespace(evidence=None)] * 30
    assert level_of_next(former, false_promotion_rate=0.05) == level_of_next([], false_promotion_rate=0.05)


def test_level_of_a_rate_that_was_lowered_below_what_is_used_up_says_so() -> None:
    lost = rounds(*[(False, 0.0)] * 9)
    with pytest.raises(ValueError, match=r"false_promotion_rate = 0.01 is used up: .* staked 0.03\d?; set it above"):
        level_of_next(lost, false_promotion_rate=0.01)
