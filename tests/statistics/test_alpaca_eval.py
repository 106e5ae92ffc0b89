"""AlpacaEval's length-controlled win rate: independent fits in float64, and what the definition promises."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from components.statistics.alpaca_eval import STRENGTHS, GamedBaselines, alpaca_eval_win_rate, fit
from components.statistics.length_control import length_controlled_win_rate

SETTINGS = {"confidence": 0.95, "resamples": 100, "seed": 3}
Data = tuple[np.ndarray, np.ndarray, np.ndarray, GamedBaselines]


def soft(chance: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Labels as a judge's probabilities are: most of them near 0 or 1."""
    means = 1 / (1 + np.exp(-logits))
    return np.clip(chance.beta(0.3 * means + 1e-3, 0.3 * (1 - means) + 1e-3), 0, 1)


def drawn(advantage: float, number: int = 300, seed: int = 5, length: float = 1.6) -> Data:
    """A model whose answers are 200 characters longer on average, and two gamed baselines, on the same prompts."""
    chance = np.random.default_rng(seed)
    difficulties, differences = chance.normal(0, 1.5, number), chance.normal(200, 600, number)
    logits = length * np.tanh(differences / differences.std(ddof=1)) + 0.9 * difficulties + advantage
    gamed_difficulties, gamed_differences = np.tile(difficulties, 2), chance.normal(0, 1, 2 * number)
    gamed = soft(chance, -3 * np.tanh(gamed_differences) + 0.6 * gamed_difficulties - 1)
    baselines = GamedBaselines(gamed.tolist(), gamed_differences.tolist(), gamed_difficulties.tolist())
    return soft(chance, logits), differences, difficulties, baselines


def reference(outcomes: np.ndarray, differences: np.ndarray, difficulties: np.ndarray, gamed: GamedBaselines) -> float:
    """The rate by scikit-learn's liblinear on rows of either label, with folds of whole rows, as the paper's code."""
    own = np.c_[np.tanh(-differences / differences.std(ddof=1)), difficulties, np.ones(len(outcomes))]
    theirs = np.c_[np.tanh(gamed.standardised_differences), gamed.difficulties, np.zeros(len(gamed.outcomes))]
    features, labels = np.r_[theirs, own], np.r_[gamed.outcomes, outcomes]
    weights = np.r_[np.full(len(theirs), 0.1), np.ones(len(own))]
    rows, classes = np.r_[features, features], np.repeat([1, 0], len(labels))
    shares, twice = np.r_[labels, 1 - labels], np.r_[weights, weights]

    def fitted(strength: float, places: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-8, max_iter=1000, random_state=1
        )
        return model.fit(rows[places], classes[places], sample_weight=(shares * twice)[places])

    losses = dict.fromkeys(STRENGTHS, 0.0)
    folds = GroupKFold(5).split(rows, classes, np.tile(np.arange(len(labels)), 2))
    for strength, (training, held_out) in itertools.product(STRENGTHS, list(folds)):
        probabilities = fitted(strength, training).predict_proba(rows[held_out])[:, 1]
        label = np.tile(labels, 2)[held_out]
        cross_entropy = -(label * np.log(probabilities) + (1 - label) * np.log(1 - probabilities))
        losses[strength] += float(np.mean(cross_entropy * twice[held_out]))
    coefficients = fitted(min(losses, key=lambda strength: losses[strength]), np.arange(len(rows))).coef_[0]
    return float(np.mean(1 / (1 + np.exp(-(coefficients[1] * difficulties + coefficients[2])))))


@pytest.mark.parametrize("strength", [0.02, 0.5, 100.0])
def test_fit_is_the_minimum_that_another_optimiser_finds(strength: float) -> None:
    """By L-BFGS-B on the positive and the negative part of each coefficient, which makes the penalty smooth."""
    outcomes, differences, difficulties, _ = drawn(-0.5)
    features = np.stack([np.tanh(differences / 600), difficulties, np.ones_like(outcomes)])
    weights = np.linspace(0.1, 1, len(outcomes))

    def loss(parts: np.ndarray) -> float:
        logits = (parts[:3] - parts[3:]) @ features
        return float((weights * (np.logaddexp(0, logits) - outcomes * logits)).sum() + parts.sum() / strength)

    options = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(loss, np.full(6, 0.1), bounds=[(0, None)] * 6, method="L-BFGS-B", options=options).x
    ours = fit(features, outcomes, weights[None], strength=strength)[0]
    assert ours == pytest.approx(best[:3] - best[3:], abs=2e-4)
    assert loss(np.r_[np.maximum(ours, 0), np.maximum(-ours, 0)]) <= loss(best) + 1e-9
    if strength == 0.02:
        assert 0.0 in ours.tolist(), "a strong penalty makes a coefficient exactly 0"


@pytest.mark.parametrize("advantage", [1.2, -0.5, -3.0])
def test_rate_is_that_of_an_independent_fit_to_a_tenth_of_a_point(advantage: float) -> None:
    data = drawn(advantage)
    assert 100 * alpaca_eval_win_rate(*data[:3], gamed=data[3], **SETTINGS).value == pytest.approx(
        100 * reference(*data), abs=0.1
    )


def test_rate_at_equal_length_is_what_the_outcomes_were_drawn_from() -> None:
    outcomes, differences, difficulties, gamed = drawn(-0.5, number=4000)
    true = float(np.mean(1 / (1 + np.exp(-(0.9 * difficulties - 0.5)))))
    rate = alpaca_eval_win_rate(outcomes, differences, difficulties, gamed=None, **SETTINGS)
    assert rate.value == pytest.approx(true, abs=0.02)
    assert rate.low < true < rate.high
    assert outcomes.mean() > true + 0.04, "length alone has won some"
    # The gamed baselines pull on the coefficients that they share with the model.
    assert alpaca_eval_win_rate(outcomes, differences, difficulties, gamed=gamed, **SETTINGS).value != rate.value


def test_rate_of_a_model_as_long_as_its_opponent_is_near_the_win_rate() -> None:
    outcomes, differences, difficulties, _ = drawn(0.4, length=0.0)
    rate = alpaca_eval_win_rate(outcomes, 0 * differences, difficulties, gamed=None, **SETTINGS)
    assert rate.value == pytest.approx(float(outcomes.mean()), abs=0.01)


def test_rate_of_swapped_sides_is_mirrored_if_the_difficulty_is() -> None:
    outcomes, differences, difficulties, _ = drawn(0.4)
    rate = alpaca_eval_win_rate(outcomes, differences, difficulties, gamed=None, **SETTINGS)
    swapped = alpaca_eval_win_rate(1 - outcomes, -differences, -difficulties, gamed=None, **SETTINGS)
    assert swapped.value == pytest.approx(1 - rate.value, abs=1e-9)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_rate_of_a_model_that_always_wins_or_loses_is_finite(outcome: float) -> None:
    _, differences, difficulties, gamed = drawn(0.0, number=60)
    rate = alpaca_eval_win_rate([outcome] * 60, differences, difficulties, gamed=gamed, **SETTINGS)
    assert rate.value == pytest.approx(outcome, abs=0.02)
    assert 0 <= rate.low <= rate.high <= 1


def test_known_difficulties_choose_the_leaderboards_definition() -> None:
    outcomes, differences, difficulties, gamed = drawn(-0.5)
    rate = length_controlled_win_rate(outcomes, differences, difficulties=difficulties, gamed=gamed, **SETTINGS)
    assert rate == alpaca_eval_win_rate(outcomes, differences, difficulties, gamed=gamed, **SETTINGS)
    assert rate.value != length_controlled_win_rate(outcomes, differences, **SETTINGS).value


def test_rate_of_unequal_numbers_or_too_few_instructions_is_refused() -> None:
    with pytest.raises(ValueError, match="2 outcomes, 2 differences and 2 difficulties"):
        alpaca_eval_win_rate([1, 0], [1, 2], [0, 0], gamed=None, **SETTINGS)
    with pytest.raises(ValueError, match="6 outcomes, 6 differences and 5 difficulties"):
        alpaca_eval_win_rate([1] * 6, [1] * 6, [0] * 5, gamed=None, **SETTINGS)
