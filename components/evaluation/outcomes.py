"""The winner on each held-out prompt, from a judge's verdicts. Knows no model and no file."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.messages import Messages
from components.judges.function_scores import function_scores
from components.judges.protocol import Group, Judge, SampledTokens, Verdict
from components.judges.violations import PRINCIPLE, count_violations
from components.records import JudgeUnavailable
from components.runtime import progress

SAMPLE_IDS = {"start": 0, "champion": 1, "challenger": 2}
"""Sample ids of each model's first response to a prompt; those of the next ones are higher by 3 each."""
Enough = Callable[[Mapping[str, Sequence[float | None]]], bool]
"""Whether the outcomes so far, by opponent, are enough."""
MAX_UNJUDGED_SHARE = 0.05
"""Share of comparisons without a verdict above which an evaluation stops."""


@dataclass(frozen=True)
class HeldOutComparison:
    """The judge's verdicts on the challenger's responses against each opponent's.

    An outcome or reward is None if its verdict is missing or invalid.
    """

    outcomes: dict[str, list[float | None]]
    """By opponent, one per judged row: 1 if the challenger wins, 0.5 for a tie, 0 if it loses."""
    rewards: dict[str, list[float | None]] | None
    """By model, the score of its response in each judged row; None for a judge that compares and gives no scores."""
    invalid_share: float
    """Invalid verdicts among all verdicts."""
    groups: Sequence[Group]
    """The judged prompts and responses."""
    verdicts: Sequence[Verdict]
    """All verdicts, the parts of conclusions included."""


def never_enough(outcomes: Mapping[str, Sequence[float | None]]) -> bool:
    """Have everything judged."""
    return False


def compare(
    judge: Judge,
    prompts: Sequence[tuple[str, Messages]],
    texts: Mapping[str, Sequence[str]],
    *,
    prompt_ids: Sequence[Sequence[int]] = (),
    tokens: Mapping[str, Sequence[SampledTokens]] | None = None,
    columns: Sequence[Mapping[str, Any]] = (),
    samples_per_prompt: int = 1,
    look_every: int = 0,
    enough: Enough = never_enough,
) -> HeldOutComparison:
    """Judge the challenger's response to each prompt against each opponent's, until that is enough.

    A judge that scores decides by the higher score, one that compares by its conclusion. A chat model's conclusion is a
    win only if both orders agree.

    Args:
        judge: The judge.
        prompts: (prompt_id, messages) of each row; the rows of a prompt follow each other.
        texts: By model, its response in each row: `challenger` and its opponents, `champion` or `start` or both.
        prompt_ids: Token ids of each prompt, for judges that read tokens; empty if the responses are from outside.
        tokens: By model, the tokens of its responses; None if they are from outside.
        columns: The other columns of each prompt's row; empty if nothing reads them.
        samples_per_prompt: Rows of each prompt.
        look_every: Rows that are judged between two calls of `enough`; 0 judges all rows at once.
        enough: Is given the outcomes so far, and says whether the other rows are not to be judged.

    Raises:
        JudgeUnavailable: More than `MAX_UNJUDGED_SHARE` of the comparisons have no verdict.
    """
    opponents = [name for name in texts if name != "challenger"]
    names = [(prompt_id, len(SAMPLE_IDS) * (row % samples_per_prompt)) for row, (prompt_id, _) in enumerate(prompts)]

    def group(row: int, opponent: str) -> Group:
        prompt_id, messages = prompts[row]
        ids = {name: names[row][1] + SAMPLE_IDS[name] for name in ("challenger", opponent)}
        return Group(
            prompt_id,
            messages,
            tuple((sample, texts[name][row]) for name, sample in ids.items()),
            prompt_ids=tuple(prompt_ids[row]) if tokens else (),
            tokens={sample: tokens[name][row] for name, sample in ids.items()} if tokens else {},
            columns=columns[row] if columns else {},
        )

    groups: list[Group] = []
    verdicts: list[Verdict] = []
    outcomes: dict[str, list[float | None]] = {opponent: [] for opponent in opponents}
    rewards: dict[str, list[float | None]] = {name: [] for name in texts}
    size = look_every or len(prompts)
    for begin in range(0, len(prompts), size):
        rows = range(begin, min(begin + size, len(prompts)))
        asked = [group(row, opponent) for opponent in opponents for row in rows]
        said = judge.judge(asked)
        groups += asked
        verdicts += said
        scores = _scores(verdict for verdict in said if not verdict.part)
        for opponent in opponents:
            outcomes[opponent] += [_outcome(scores, names[row], opponent) for row in rows]
        for name in texts:
            rewards[name] += [scores.get((names[row][0], names[row][1] + SAMPLE_IDS[name], None)) for row in rows]
        concluded = [verdict for verdict in verdicts if not verdict.part]
        all_outcomes = [outcome for of_opponent in outcomes.values() for outcome in of_opponent]
        _check_unjudged(judge.name, concluded, all_outcomes, planned=len(prompts) * len(opponents))
        progress.report(rows.stop, len(prompts), "held-out responses compared")
        if enough(outcomes) or rows.stop == len(prompts):
            _check_unjudged(judge.name, concluded, all_outcomes, planned=len(all_outcomes))
            break
    judge_scores = any(verdict.opponent_id is None for verdict in concluded)
    invalid_share = sum(verdict.status == "invalid" for verdict in concluded) / len(concluded)
    return HeldOutComparison(outcomes, rewards if judge_scores else None, invalid_share, groups, verdicts)


def principle_violations(verdicts: Sequence[Verdict], *, models: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return, by principle and model, the share of responses that violate a constitution's principle, in [0, 1].

    A share is None if no response was checked. The result is empty if no constitution judged.

    Args:
        verdicts: All verdicts of `compare`.
        models: The compared models.
    """
    counts = {
        name: count_violations(
            verdict for verdict in verdicts if verdict.sample_id % len(SAMPLE_IDS) == SAMPLE_IDS[name]
        )
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
        name: function_scores(
            verdict for verdict in verdicts if verdict.sample_id % len(SAMPLE_IDS) == SAMPLE_IDS[name]
        )
        for name in models
    }
    functions = dict.fromkeys(function for of_model in scores.values() for function in of_model)
    return {function: {name: scores[name][function].mean for name in models} for function in functions}


def _of_model(verdicts: Iterable[Verdict], name: str) -> Iterator[Verdict]:
    return (verdict for verdict in verdicts if verdict.sample_id % len(SAMPLE_IDS) == SAMPLE_IDS[name])


def _scores(verdicts: Iterable[Verdict]) -> dict[tuple[str, int, int | None], float]:
    """Return the mean of the valid verdicts on each response alone, and on each ordered pair."""
    scores: defaultdict[tuple[str, int, int | None], list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.score is not None:
            scores[verdict.prompt_id, verdict.sample_id, verdict.opponent_id].append(verdict.score)
    return {key: math.fsum(values) / len(values) for key, values in scores.items()}


def _outcome(
    scores: Mapping[tuple[str, int, int | None], float], name: tuple[str, int], opponent_name: str
) -> float | None:
    """Return the challenger's outcome in a row, which is named by its prompt and its first sample id."""
    prompt_id, first_id = name
    challenger, opponent = (first_id + SAMPLE_IDS[model] for model in ("challenger", opponent_name))
    own, other = scores.get((prompt_id, challenger, None)), scores.get((prompt_id, opponent, None))
    if own is not None and other is not None:
        return _sign(own - other)
    first, second = scores.get((prompt_id, challenger, opponent)), scores.get((prompt_id, opponent, challenger))
    if first is not None:
        return _sign(first - 0.5)
    return None if second is None else _sign(0.5 - second)


def _sign(advantage: float) -> float:
    return 1.0 if advantage > 0 else 0.0 if advantage < 0 else 0.5


def _check_unjudged(judge: str, verdicts: Sequence[Verdict], outcomes: Sequence[float | None], *, planned: int) -> None:
    """Refuse more comparisons without a verdict than `planned` ones may have."""
    unjudged = sum(outcome is None for outcome in outcomes)
    if unjudged <= MAX_UNJUDGED_SHARE * planned:
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
