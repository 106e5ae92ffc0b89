"""How often an answer wins against the other answers that the same policy gave to the prompt. Pure."""

import math

from components.judges.protocol import SCORE_NOISE
from components.preferences.candidates import Answer, JudgedPrompt


def win_rates(prompt: JudgedPrompt) -> dict[int, float]:
    """Estimated probability that each answer beats one that the policy draws, by the answer's `sample_id`.

    The worth of an answer to self-play on preferences (SPPO, arXiv 2405.00675; Nash learning, arXiv 2312.00886): the mean probability
    that it wins against the prompt's other responses. What the judge concluded about two answers counts as it is; where the judge
    scores alone, the sign of the difference does. Responses of the same text tie. Answers that were not compared do not count.

    Args:
        prompt: Two responses or more with a score.
    """
    return {answer.sample_id: _win_rate(answer, prompt) for answer in prompt.answers}


def _win_rate(answer: Answer, prompt: JudgedPrompt) -> float:
    twins = len(answer.sample_ids) - 1
    won, met = [0.5 * twins], twins
    for other in prompt.answers:
        probability = 0.5 if other == answer else _wins(answer, other, prompt)
        if other != answer and probability is not None:
            won.append(probability * len(other.sample_ids))
            met += len(other.sample_ids)
    return math.fsum(won) / met if met else 0.5


def _wins(answer: Answer, other: Answer, prompt: JudgedPrompt) -> float | None:
    if prompt.comparisons:
        return prompt.comparisons.get((answer.sample_id, other.sample_id))
    if math.isclose(answer.score, other.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE):
        return 0.5
    return 1.0 if answer.score > other.score else 0.0
