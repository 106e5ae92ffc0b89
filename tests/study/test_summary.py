import pytest
from scipy import stats

from components.study.summary import Spread, summarize
from tests.study.conftest import Make

ARMS = ("loop", "offline")


def bounds(spread: Spread) -> tuple[float | None, ...]:
    return spread.value, spread.low, spread.high


def test_summary_means_and_paired_differences_are_students(make_outcome: Make) -> None:
    rates = {"loop": (0.80, 0.90, 0.85), "offline": (0.70, 0.75, 0.77)}
    outcomes = [
        make_outcome(arm, seed, [(2.0 + rate, 3.0, rate)])
        for arm, values in rates.items()
        for seed, rate in enumerate(values, 1)
    ]
    loop, offline = summarize(list(reversed(outcomes)), arms=ARMS, confidence=0.95)
    assert (loop.arm, loop.seeds, loop.differences) == ("loop", (1, 2, 3), {})
    # By hand: mean 0.85, standard deviation 0.05, Student's 0.975 quantile with 2 degrees of freedom 4.302653.
    reach = 4.302652729911275 * 0.05 / 3**0.5
    assert bounds(loop.measures["win_rate"]) == pytest.approx((0.85, 0.85 - reach, 0.85 + reach))
    differences = [-0.10, -0.15, -0.08]
    test = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert bounds(offline.differences["win_rate"]) == pytest.approx((-0.11, test.low, test.high))


def test_summary_pairs_only_the_seeds_that_both_have(make_outcome: Make) -> None:
    outcomes = [make_outcome("loop", seed, [(2.0, 3.0, 0.8)]) for seed in (1, 2)]
    outcomes += [make_outcome("offline", seed, [(2.0, 3.0, rate)]) for seed, rate in ((2, 0.6), (3, 0.9))]
    _, offline = summarize(outcomes, arms=ARMS, confidence=0.95)
    by = offline.differences["win_rate"]
    assert (by.value, by.low, by.high, by.n) == (pytest.approx(-0.2), None, None, 1)
    assert offline.measures["win_rate"].n == 2


def test_summary_champion_is_the_last_promoted_model(make_outcome: Make) -> None:
    outcomes = [make_outcome("loop", 1, [(2.0, 3.0, 0.8), (1.5, 20.0, 0.3)], refused=[2])]
    outcomes += [make_outcome("offline", 1, [(0.5, 9.0, 0.2)], refused=[1])]
    loop, offline = summarize(outcomes, arms=ARMS, confidence=0.95)
    assert (loop.measures["win_rate"].value, loop.measures["kl"].value, loop.promotions) == (0.8, 3.0, 1)
    assert (offline.measures["win_rate"].value, offline.measures["kl"].value, offline.promotions) == (0.5, 0.0, 0)
    assert [point.kl.value for point in loop.frontier] == [3.0, 20.0]


def test_summary_reward_at_equal_kl_is_read_off_the_baselines_path(make_outcome: Make) -> None:
    baseline = make_outcome("loop", 1, [(2.0, 2.0, 0.7), (4.0, 6.0, 0.9)])
    # Between the baseline's models, at 4 nats, its path has 3.0; before the first, at 1 nat, half way from the start.
    between = make_outcome("offline", 1, [(2.5, 4.0, 0.8)])
    before = make_outcome("offline", 1, [(2.5, 1.0, 0.8)])
    beyond = make_outcome("offline", 1, [(2.5, 6.5, 0.8)])

    above = [summarize([baseline, each], arms=ARMS, confidence=0.95)[1] for each in (between, before, beyond)]
    values = [arm.reward_at_baseline_path.value if arm.reward_at_baseline_path else None for arm in above]
    assert values == [pytest.approx(-0.5), pytest.approx(1.0), None]


def test_summary_judge_without_scores_has_no_reward(make_outcome: Make) -> None:
    outcomes = [make_outcome(arm, seed, [(None, 3.0, 0.8)]) for arm in ARMS for seed in (1, 2)]
    loop, offline = summarize(outcomes, arms=ARMS, confidence=0.95)
    assert "reward" not in loop.measures
    assert "reward" not in offline.differences
    assert loop.frontier[0].reward is None
    assert offline.reward_at_baseline_path is None


@pytest.mark.parametrize(("tokens", "told"), [(1090, None), (1500, "1.50 times the baseline's generated tokens")])
def test_summary_budget_that_differs_is_told(make_outcome: Make, tokens: int, told: str | None) -> None:
    outcomes = [make_outcome("loop", 1, [(2.0, 3.0, 0.8)])]
    outcomes += [make_outcome("offline", 1, [(2.0, 3.0, 0.8)], tokens=tokens)]
    loop, offline = summarize(outcomes, arms=ARMS, confidence=0.95)
    assert (loop.budget, offline.budget) == (None, told)


def test_summary_budget_beside_a_baseline_without_one_is_told(make_outcome: Make) -> None:
    outcomes = [make_outcome("loop", 1, [(2.0, 3.0, 0.8)], tokens=0)]
    outcomes += [make_outcome("offline", seed, [(2.0, 3.0, 0.8)], tokens=1500) for seed in (1, 2)]
    _, offline = summarize(outcomes, arms=ARMS, confidence=0.95)
    assert offline.budget == "1,500 generated tokens, of which the baseline has none"
    _, other = summarize([outcomes[0], outcomes[2]], arms=ARMS, confidence=0.95)
    assert other.budget == "not compared: the baseline has none of its seeds"


def test_summary_equal_seeds_show_no_spread(make_outcome: Make) -> None:
    outcomes = [make_outcome("loop", seed, [(2.0, 3.0, 0.8)]) for seed in (1, 2)]
    (loop,) = summarize(outcomes, arms=ARMS, confidence=0.95)
    assert bounds(loop.measures["win_rate"]) == (0.8, None, None)


def test_summary_arm_without_a_finished_seed_is_left_out(make_outcome: Make) -> None:
    (offline,) = summarize([make_outcome("offline", 1, [(2.0, 3.0, 0.8)])], arms=ARMS, confidence=0.95)
    assert (offline.arm, offline.differences, offline.budget) == ("offline", {}, None)
