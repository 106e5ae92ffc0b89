"""Estimate the win rate at equal length. Pure functions of numbers."""

from collections.abc import Sequence

import numpy as np

from components.records import Interval
from components.statistics.alpaca_eval import GamedBaselines, alpaca_eval_win_rate

PRIOR_SCALES = (10.0, 2.5)
"""Standard deviations of the normal priors on the advantage and on the length's coefficient. They keep both finite if
one model wins every comparison, or every longer response wins (Gelman et al. 2008)."""
ITERATIONS = 30
"""Newton steps; the posterior is log-concave, and ten are enough at any data of the tests."""


def length_controlled_win_rate(
    outcomes: Sequence[float],
    length_differences: Sequence[float],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    difficulties: Sequence[float] | None = None,
    gamed: GamedBaselines | None = None,
) -> Interval:
    """Return the win rate that two models would have if their responses were equally long.

    The preference is modelled as sigmoid(advantage + c tanh(d / s)), where d is the difference of lengths on a prompt
    and s the standard deviation of d over the prompts; the estimate is sigmoid(advantage) (Dubois et al. 2024, arXiv
    2404.04475, without the difficulty of the prompts).

    If the difficulty of each prompt is known, it is the leaderboard's definition instead: see
    `alpaca_eval.alpaca_eval_win_rate`.

    Args:
        outcomes: One per prompt: 1 win, 0.5 tie, 0 loss, or a mean over both orders.
        length_differences: One per prompt: the length of the model's response minus that of its opponent's, in tokens
            or characters.
        confidence: Level of the percentile bootstrap interval over prompts, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples.
        difficulties: One per prompt, on AlpacaEval's scale; None if they are not known.
        gamed: The rows of AlpacaEval's gamed baselines, which are read only beside difficulties.

    Raises:
        ValueError: There are no prompts, or the sequences are not equally long.
    """
    if difficulties is not None:
        return alpaca_eval_win_rate(
            outcomes,
            length_differences,
            difficulties,
            gamed=gamed,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
    won, differences = (np.asarray(values, dtype=np.float64) for values in (outcomes, length_differences))
    if not won.size or won.shape != differences.shape:
        raise ValueError(f"{won.size} outcomes and {differences.size} differences: give one of each per prompt")
    spread = float(differences.std())
    features = np.stack([np.ones_like(won), np.tanh(differences / spread) if spread else np.zeros_like(won)])
    counts = np.random.default_rng(seed).multinomial(won.size, np.full(won.size, 1 / won.size), size=resamples)
    advantages = _fit(features, won, np.vstack([np.ones_like(won), counts]))[:, 0]
    rates = 1 / (1 + np.exp(-advantages))
    tail = (1 - confidence) / 2
    low, high = np.quantile(rates[1:], [tail, 1 - tail])
    return Interval(value=float(rates[0]), low=float(low), high=float(high), n=won.size)


def _fit(features: np.ndarray, outcomes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the coefficients of most posterior density, (fits, 2), for each row of weights, (fits, prompts)."""
    precisions = 1 / np.square(PRIOR_SCALES)
    coefficients = np.zeros((len(weights), 2))
    for _ in range(ITERATIONS):
        probabilities = 1 / (1 + np.exp(-coefficients @ features))
        gradient = (weights * (outcomes - probabilities)) @ features.T - coefficients * precisions
        curvature = weights * probabilities * (1 - probabilities)
        hessian = np.einsum("fp,ip,jp->fij", curvature, features, features) + np.diag(precisions)
        # A step of at most 2 keeps the first ones from leaping past the optimum when the outcomes are separable.
        coefficients += np.clip(np.linalg.solve(hessian, gradient[..., None])[..., 0], -2, 2)
    return coefficients
