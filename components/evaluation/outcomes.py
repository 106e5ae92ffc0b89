"""Who won on each held-out prompt, by a judge's verdicts in both orders. Knows no model and no file."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.data.messages import Messages
from components.judges.protocol import Group, Judge, Verdict
from components.judges.violations import PRINCIPLE, count_violations
from components.records import JudgeUnavailable

SAMPLE_IDS = {"start": 0, "champion": 1, "challenger": 2}
MAX_UNJUDGED_SHARE = 0.05
"""Share of comparisons without a verdict above which an evaluation stops."""


@dataclass(frozen=True)
class HeldOutComparison:
    """What the judge said of the challenger's responses against each opponent's.

    None stands where a verdict is missing or invalid.
    """

    outcomes: dict[str, list[float | None]]
    """By opponent, one a prompt: 1 win of the challenger, 0.5 tie, 0 loss."""
    rewards: dict[str, list[float | None]] | None
    """By model, the score of its response to each prompt; None for a judge that compares and gives no scores."""
    invalid_share: float
    """Invalid verdicts among all verdicts."""
    groups: Sequence[Group]
    """What was judged."""
    verdicts: Sequence[Verdict]
    """All that the judge said, the parts of its conclusions included."""


def compare(
    judge: Judge, prompts: Sequence[tuple[str, Messages]], texts: Mapping[str, Sequence[str]]
) -> HeldOutComparison:
    """Has the challenger's response to each prompt judged against each opponent's.

    A judge that scores decides by the higher score, one that compares by its conclusion; a chat model's is a win only
    where it said the same in both orders.

    Args:
        judge: Who decides.
        prompts: (prompt_id, messages) of each prompt.
        texts: Responses to the prompts of `challenger` and of its opponents, `champion` or `start` or both.

    Raises:
        JudgeUnavailable: More than `MAX_UNJUDGED_SHARE` of the comparisons have no verdict.
    """
    opponents = [name for name in texts if name != "challenger"]
    groups = [
        Group(prompt_id, messages, tuple((SAMPLE_IDS[name], texts[name][row]) for name in ("challenger", opponent)))
        for opponent in opponents
        for row, (prompt_id, messages) in enumerate(prompts)
    ]
    said = judge.judge(groups)
    verdicts = [verdict for verdict in said if not verdict.part]
    scores = _scores(verdicts)
    names = [prompt_id for prompt_id, _ in prompts]
    outcomes = {opponent: [_outcome(scores, name, SAMPLE_IDS[opponent]) for name in names] for opponent in opponents}
    _check_unjudged(judge.name, verdicts, [outcome for several in outcomes.values() for outcome in several])
    alone = any(verdict.opponent_id is None for verdict in verdicts)
    rewards = (
        {name: [scores.get((prompt, SAMPLE_IDS[name], None)) for prompt in names] for name in texts} if alone else None
    )
    invalid_share = sum(verdict.status == "invalid" for verdict in verdicts) / len(verdicts)
    return HeldOutComparison(outcomes, rewards, invalid_share, groups, said)


def principle_violations(verdicts: Sequence[Verdict], *, models: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Share of each model's responses that violate each of a constitution's principles, in [0, 1].

    None where none was checked.

    Args:
        verdicts: All that the judge said in `compare`.
        models: Those that were compared. Empty is returned where no constitution judged.
    """
    counted = {
        name: count_violations(verdict for verdict in verdicts if verdict.sample_id == SAMPLE_IDS[name])
        for name in models
    }
    principles = dict.fromkeys(principle for found in counted.values() for principle in found)
    return {
        f"{PRINCIPLE}{principle}": {name: counted[name][principle].rate for name in models} for principle in principles
    }


def _scores(verdicts: Sequence[Verdict]) -> dict[tuple[str, int, int | None], float]:
    """Mean of the valid verdicts on each response alone, and on each ordered pair."""
    found: defaultdict[tuple[str, int, int | None], list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.score is not None:
            found[verdict.prompt_id, verdict.sample_id, verdict.opponent_id].append(verdict.score)
    return {key: math.fsum(several) / len(several) for key, several in found.items()}


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
