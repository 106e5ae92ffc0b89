"""The winner on each held-out prompt, from a judge's verdicts. Knows no model and no file."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.messages import Messages
from components.judges.function_scores import function_scores
from components.judges.protocol import Group, Judge, SampledTokens, Verdict
from components.judges.violations import PRINCIPLE, count_violations
from components.records import JudgeUnavailable

SAMPLE_IDS = {"start": 0, "champion": 1, "challenger": 2}
MAX_UNJUDGED_SHARE = 0.05
"""Share of comparisons without a verdict above which an evaluation stops."""


@dataclass(frozen=True)
class HeldOutComparison:
    """The judge's verdicts on the challenger's responses against each opponent's.

    An outcome or reward is None if its verdict is missing or invalid.
    """

    outcomes: dict[str, list[float | None]]
    """By opponent, one per prompt: 1 if the challenger wins, 0.5 for a tie, 0 if it loses."""
    rewards: dict[str, list[float | None]] | None
    """By model, the score of its response to each prompt; None for a judge that compares and gives no scores."""
    invalid_share: float
    """Invalid verdicts among all verdicts."""
    groups: Sequence[Group]
    """The judged prompts and responses."""
    verdicts: Sequence[Verdict]
    """All verdicts, the parts of conclusions included."""


def compare(
    judge: Judge,
    prompts: Sequence[tuple[str, Messages]],
    texts: Mapping[str, Sequence[str]],
    *,
    prompt_ids: Sequence[Sequence[int]] = (),
    tokens: Mapping[str, Sequence[SampledTokens]] | None = None,
    columns: Sequence[Mapping[str, Any]] = (),
) -> HeldOutComparison:
    """Judge the challenger's response to each prompt against each opponent's.

    A judge that scores decides by the higher score, one that compares by its conclusion. A chat model's conclusion is a
    win only if both orders agree.

    Args:
        judge: The judge.
        prompts: (prompt_id, messages) of each prompt.
        texts: By model, its responses to the prompts: `challenger` and its opponents, `champion` or `start` or both.
        prompt_ids: Token ids of each prompt, for judges that read tokens; empty if the responses are from outside.
        tokens: By model, the tokens of its responses; None if they are from outside.
        columns: The other columns of each prompt's row; empty if nothing reads them.

    Raises:
        JudgeUnavailable: More than `MAX_UNJUDGED_SHARE` of the comparisons have no verdict.
    """
    opponents = [name for name in texts if name != "challenger"]
    groups = [
        Group(
            prompt_id,
            messages,
            tuple((SAMPLE_IDS[name], texts[name][row]) for name in ("challenger", opponent)),
            prompt_ids=tuple(prompt_ids[row]) if tokens else (),
            tokens={SAMPLE_IDS[name]: tokens[name][row] for name in ("challenger", opponent)} if tokens else {},
            columns=columns[row] if columns else {},
        )
        for opponent in opponents
        for row, (prompt_id, messages) in enumerate(prompts)
    ]
    verdicts = judge.judge(groups)
    concluded = [verdict for verdict in verdicts if not verdict.part]
    scores = _scores(concluded)
    names = [prompt_id for prompt_id, _ in prompts]
    outcomes = {opponent: [_outcome(scores, name, SAMPLE_IDS[opponent]) for name in names] for opponent in opponents}
    _check_unjudged(judge.name, concluded, [outcome for of_opponent in outcomes.values() for outcome in of_opponent])
    judge_scores = any(verdict.opponent_id is None for verdict in concluded)
    rewards = (
        {name: [scores.get((prompt, SAMPLE_IDS[name], None)) for prompt in names] for name in texts}
        if judge_scores
        else None
    )
    invalid_share = sum(verdict.status == "invalid" for verdict in concluded) / len(concluded)
    return HeldOutComparison(outcomes, rewards, invalid_share, groups, verdicts)


def principle_violations(verdicts: Sequence[Verdict], *, models: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return, by principle and model, the share of responses that violate a constitution's principle, in [0, 1].

    A share is None if no response was checked. The result is empty if no constitution judged.

    Args:
        verdicts: All verdicts of `compare`.
        models: The compared models.
    """
    counts = {
        name: count_violations(verdict for verdict in verdicts if verdict.sample_id == SAMPLE_IDS[name])
        for name in models
    }
    principles = dict.fromkeys(principle for of_model in counts.values() for principle in of_model)
    return {
        f"{PRINCIPLE}{principle}": {name: counts[name][principle].rate for name in models} for principle in principles
    }


def function_means(verdicts: Sequence[Verdict], *, models: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return, by function and model, the mean of the function's scores; arguments as for `principle_violations`.

    A mean is None if no response has a score. The result is empty unless several functions of the user judged.
    """
    scores = {
        name: function_scores(verdict for verdict in verdicts if verdict.sample_id == SAMPLE_IDS[name])
        for name in models
    }
    functions = dict.fromkeys(function for of_model in scores.values() for function in of_model)
    return {function: {name: scores[name][function].mean for name in models} for function in functions}


def _scores(verdicts: Sequence[Verdict]) -> dict[tuple[str, int, int | None], float]:
    """Return the mean of the valid verdicts on each response alone, and on each ordered pair."""
    scores: defaultdict[tuple[str, int, int | None], list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.score is not None:
            scores[verdict.prompt_id, verdict.sample_id, verdict.opponent_id].append(verdict.score)
    return {key: math.fsum(values) / len(values) for key, values in scores.items()}


def _outcome(scores: Mapping[tuple[str, int, int | None], float], prompt_id: str, opponent: int) -> float | None:
    challenger = SAMPLE_IDS["challenger"]
    own, other = scores.get((prompt_id, challenger, None)), scores.get((prompt_id, opponent, None))
    if own is not None and other is not None:
        return _sign(own - other)
    first, second = scores.get((prompt_id, challenger, opponent)), scores.get((prompt_id, opponent, challenger))
    if first is not None:
        return _sign(first - 0.5)
    return None if second is None else _sign(0.5 - second)


def _sign(advantage: float) -> float:
    return 1.0 if advantage > 0 else 0.0 if advantage < 0 else 0.5


def _check_unjudged(judge: str, verdicts: Sequence[Verdict], outcomes: Sequence[float | None]) -> None:
    unjudged = sum(outcome is None for outcome in outcomes)
    if unjudged <= MAX_UNJUDGED_SHARE * len(outcomes):
        return
    invalid = Counter(verdict.detail for verdict in verdicts if verdict.status == "invalid")
    cause = f"{invalid.total()} of {len(verdicts)} verdicts are invalid"
    if invalid:
        detail, count = invalid.most_common(1)[0]
        cause += f", {count} times: {detail}"
    limit = f"more than {MAX_UNJUDGED_SHARE:.0%}"
    raise JudgeUnavailable(
        f"judge {judge}: {unjudged} of {len(outcomes)} comparisons have no verdict, {limit}; {cause}"
    )
