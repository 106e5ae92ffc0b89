"""Says at which step prompts ended without a pair, and what to change.

Pure; knows no judge, file or stage.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.config import PreferencesConfig
from components.data.funnel import LeftOut, Step, step
from components.judges.protocol import Group
from components.preferences.counts import PAIRED
from components.preferences.judged_pairs import BuiltPairs

EQUAL = "equal"
"""How a prompt ends whose responses are all the same text; the builders count it as a tie."""
REMEDIES = {
    EQUAL: "raise generation.temperature, and leave generation.top_k at 0",
    "ties": "use a judge that tells responses apart, or set `preferences: {ties: half}`",
    "below_margin": "lower preferences.min_margin",
    "no_verdict": "see verdicts.parquet",
    "not_compared": "use a judge that compares, or other soft_labels",
    "not_revised": "see collect.json",
    "chosen_cut": "raise policy.max_response_tokens, or set preferences.cut_responses to any",
}


def judged_step(groups: Sequence[Group], built: BuiltPairs, preferences: PreferencesConfig) -> Step:
    """Return what building pairs left out, in prompts by the step at which they ended.

    Args:
        groups: Prompts and responses.
        built: The pairs, and how each prompt ended.
        preferences: Margin and ties.
    """
    single = preferences.pairs == "unpaired"
    ended = Counter(
        EQUAL if not single and _is_equal(group) and outcome == "ties" else outcome
        for group in groups
        if (outcome := built.outcomes[group.prompt_id]) != PAIRED
    )
    causes = {
        EQUAL: "all responses are equal",
        "ties": "the scores tie",
        "no_verdict": "fewer than two responses have a valid verdict",
        "not_compared": "the judge did not compare the responses",
        "not_revised": f"no response was revised: {_listed(built.revisions or {})}",
        "chosen_cut": "the length limit cut the better responses",
    }
    if single:
        causes |= {"ties": "the scores are the threshold", "no_verdict": "no response has a valid verdict"}
    remedies = {"ties": "set preferences.threshold to another one"} if single else {}
    return _step(len(groups), "prompts", ended, causes, built.largest_margin, preferences, remedies)


def demonstrated_step(outcomes: Mapping[str, str]) -> Step:
    """Return what demonstrations left out, in prompts by the step at which they ended."""
    equal = LeftOut(
        count=sum(outcome == "ties" for outcome in outcomes.values()),
        cause="all answers of the policy say what the demonstrations say",
        remedy="name other demonstrations: the policy has learned these",
    )
    unanswered = LeftOut(
        count=sum(outcome == "no_verdict" for outcome in outcomes.values()),
        cause="the policy gave no answer",
        remedy="raise policy.max_prompt_tokens",
    )
    return step(len(outcomes), "prompts", [equal, unanswered])


def seeded_step(outcomes: Sequence[str], largest_margin: float | None, preferences: PreferencesConfig) -> Step:
    """Return what was left out of a data set, in rows by the step at which they ended."""
    ended = Counter(outcome for outcome in outcomes if outcome != PAIRED)
    causes = {
        "ties": "the margin is 0 (preferences.ties = drop)",
        "no_verdict": "chosen and rejected differ before the last answer",
    }
    remedies = {"ties": "set `preferences: {ties: half}`", "no_verdict": "name pairs of answers to the same prompt"}
    return _step(len(outcomes), "rows", ended, causes, largest_margin, preferences, remedies)


def costly_step(pairs: int, counts: Mapping[str, Any], *, rest: str, preferences: PreferencesConfig) -> Step:
    """Return what the costly judge left out of the pairs.

    Args:
        pairs: Number of pairs before it was asked.
        counts: Its counts in collect.json.
        rest: `active.rest`.
        preferences: What becomes of ties.
    """
    tied = counts["ties"] if preferences.ties == "drop" else 0
    undecided = LeftOut(
        count=counts["dropped"] - tied - counts["chosen_cut"],
        cause=f"the costly judge decided nothing (active.rest = {rest}, active.budget = {counts['budget']})",
        remedy="set `active: {rest: keep}`, or raise active.budget",
    )
    ties = LeftOut(
        count=tied,
        cause="the costly judge finds the answers tied (preferences.ties = drop)",
        remedy=REMEDIES["ties"],
    )
    cut = LeftOut(
        count=counts["chosen_cut"],
        cause="the length limit cut the answer that the costly judge prefers (preferences.cut_responses = rejected)",
        remedy=REMEDIES["chosen_cut"],
    )
    return step(pairs, "pairs", [undecided, ties, cut])


def _step(
    total: int,
    noun: str,
    ended: Counter[str],
    causes: dict[str, str],
    largest_margin: float | None,
    preferences: PreferencesConfig,
    remedies: Mapping[str, str],
) -> Step:
    if largest_margin is not None:
        name = "margin of scores"
        if preferences.pairs == "unpaired" and noun == "prompts":
            name = f"distance from preferences.threshold = {preferences.threshold}"
        limit = f"preferences.min_margin = {preferences.min_margin:g}"
        causes = causes | {"below_margin": f"the largest {name}, {largest_margin:.3g}, is within {limit}"}
    return step(
        total,
        noun,
        [
            LeftOut(count=count, cause=causes[outcome], remedy=remedies.get(outcome, REMEDIES[outcome]))
            for outcome, count in ended.most_common()
        ],
    )


def _is_equal(group: Group) -> bool:
    return len(group.responses) > 1 and len({text.strip() for _, text in group.responses}) == 1


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
