"""The length-controlled win rate as AlpacaEval 2 defines it. Pure functions of numbers.

Dubois et al. 2024 (arXiv 2404.04475), and the settings that the leaderboard's numbers were made with (version
`length_controlled_v1`): the preference is modelled as sigmoid(a tanh(d / s) + b difficulty + c), with an L1 penalty
whose strength is cross-validated, on soft labels; the rate is the mean prediction at no difference of length. Two
baselines that were made to game the judge by their length take part in the fit with little weight and without c, so
that a model cannot hide in its lengths what it lacks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from components.records import Interval

GAMED_WEIGHT = 0.2 / 2
"""Weight of each row of the gamed baselines; there are two, with 0.2 together."""
STRENGTHS = np.logspace(-4, 4, 10)
"""Inverse strengths of the penalty that are tried."""
FOLDS = 5
ITERATIONS, SWEEPS = 60, 30
"""Newton steps, and sweeps over the three coefficients within one."""


class GamedBaselines(NamedTuple):
    """Annotations of the gamed baselines, one per row, as AlpacaEval publishes them (`df_gamed.csv`)."""

    outcomes: Sequence[float]
    """Preference for the baseline, in [0, 1]."""
    standardised_differences: Sequence[float]
    """d / s of each baseline, `std_delta_len`; of the opponent's length minus the baseline's, as published."""
    difficulties: Sequence[float]


def alpaca_eval_win_rate(
    outcomes: Sequence[float],
    length_differences: Sequence[float],
    difficulties: Sequence[float],
    *,
    gamed: GamedBaselines | None,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Return the length-controlled win rate in [0, 1]; the leaderboard shows 100 times its value.

    Args:
        outcomes: One per instruction: the preference for the model in [0, 1].
        length_differences: One per instruction: the model's characters minus the opponent's.
        difficulties: One per instruction, as published (`instruction_difficulty.csv`) or fitted over many models.
        gamed: The rows of the gamed baselines; None fits the model's rows alone.
        confidence: Level of the percentile bootstrap interval over instructions, at the chosen penalty, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples.

    Raises:
        ValueError: There are fewer instructions than folds, or the sequences are not equally long.
    """
    won, differences, difficulty = (
        np.asarray(each, np.float64) for each in (outcomes, length_differences, difficulties)
    )
    if won.size < FOLDS or not won.shape == differences.shape == difficulty.shape:
        raise ValueError(
            f"{won.size} outcomes, {differences.size} differences and {difficulty.size} difficulties: give one of each "
            f"per instruction, and at least {FOLDS}"
        )
    spread = float(differences.std(ddof=1))
    # Of the opponent's length minus the model's, as of the gamed baselines.
    features = np.stack([np.tanh(-differences / spread) if spread else 0 * won, difficulty, np.ones_like(won)])
    rows, labels, weights = _with_gamed(features, won, gamed)
    strength = _cross_validated(rows, labels, weights)
    counts = np.random.default_rng(seed).multinomial(won.size, np.full(won.size, 1 / won.size), size=resamples)
    own = np.vstack([np.ones_like(won), counts])
    others = np.broadcast_to(weights[: weights.size - won.size], (len(own), weights.size - won.size))
    coefficients = fit(rows, labels, np.hstack([others, own]), strength=strength)
    predicted = _sigmoid(coefficients[:, 1:] @ features[1:])
    rates = (predicted * own).sum(axis=1) / won.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates[1:], [tail, 1 - tail])
    return Interval(value=float(rates[0]), low=float(low), high=float(high), n=won.size)


def fit(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, *, strength: float) -> np.ndarray:
    """Return the coefficients that minimise strength x weighted cross-entropy + their absolute values.

    Newton steps, each with the penalty kept as it is and solved coefficient by coefficient (proximal Newton, Friedman
    et al. 2010, J. Stat. Softw. 33).

    Args:
        features: (coefficients, rows).
        labels: (rows,), in [0, 1].
        weights: (fits, rows).
        strength: Inverse strength of the penalty.

    Returns:
        (fits, coefficients).
    """
    coefficients = np.zeros((len(weights), len(features)))
    for _ in range(ITERATIONS):
        probabilities = _sigmoid(coefficients @ features)
        gradient = (weights * (probabilities - labels)) @ features.T
        curvature = weights * probabilities * (1 - probabilities)
        hessian = np.einsum("fr,ir,jr->fij", curvature, features, features, optimize=True)
        step = _penalised_step(coefficients, gradient, hessian, 1 / strength)
        coefficients = coefficients + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return coefficients


def _penalised_step(coefficients: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, penalty: float) -> np.ndarray:
    """Return the step to the minimum of the quadratic model plus the penalty, (fits, coefficients)."""
    step = np.zeros_like(coefficients)
    for _ in range(SWEEPS):
        for place in range(step.shape[1]):
            bend = np.maximum(hessian[:, place, place], 1e-12)
            slope = gradient[:, place] + (hessian[:, place] * step).sum(axis=1)
            target = bend * (coefficients[:, place] + step[:, place]) - slope
            moved = np.sign(target) * np.maximum(np.abs(target) - penalty, 0) / bend
            step[:, place] = moved - coefficients[:, place]
    return step


def _with_gamed(
    features: np.ndarray, won: np.ndarray, gamed: GamedBaselines | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and weights of all rows; the gamed baselines come first and have no constant."""
    if gamed is None:
        return features, won, np.ones_like(won)
    outcomes, differences, difficulties = (np.asarray(each, np.float64) for each in gamed)
    theirs = np.stack([np.tanh(differences), difficulties, np.zeros_like(outcomes)])
    weights = np.concatenate([np.full(outcomes.size, GAMED_WEIGHT), np.ones_like(won)])
    return np.hstack([theirs, features]), np.concatenate([outcomes, won]), weights


def _cross_validated(features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return the strength of the least cross-entropy on the rows that a fold leaves out; of equal ones the least."""
    folds = np.arange(labels.size) % FOLDS
    training = np.where(folds == np.arange(FOLDS)[:, None], 0.0, weights)
    left_out = np.where(training == 0, weights, 0.0) / np.bincount(folds, minlength=FOLDS)[:, None]
    losses = []
    for strength in STRENGTHS:
        logits = fit(features, labels, training, strength=float(strength)) @ features
        losses.append((left_out * (np.logaddexp(0, logits) - labels * logits)).sum())
    return float(STRENGTHS[int(np.argmin(losses))])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
