"""Says why a round's responses gave no pair at all: at which step every prompt ended, and what to change.

Pure; knows no judge, file or stage.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from components.config import PreferencesConfig
from components.judges.protocol import Group, Verdict, scores
from components.records import DataRejected

EQUAL = "equal"
"""How a prompt ends whose responses are all the same text; the builders count it as a tie."""


def refuse_no_pairs(
    groups: Sequence[Group],
    outcomes: Mapping[str, str],
    verdicts: Sequence[Verdict],
    preferences: PreferencesConfig,
) -> None:
    """Refuse a round without a pair.

    Args:
        groups: Prompts and responses.
        outcomes: How each prompt ended, by prompt_id.
        verdicts: The judge's verdicts.
        preferences: Margin and ties.

    Raises:
        DataRejected: Always; the message counts the prompts by the step at which they ended, most first.
    """
    ended = Counter(EQUAL if _is_equal(group) else outcomes[group.prompt_id] for group in groups)
    causes = {
        EQUAL: "all responses are equal",
        "ties": "the scores tie",
        "below_margin": f"the largest margin of scores, {_largest_margin(groups, verdicts):.3g}, is within "
        f"preferences.min_margin = {preferences.min_margin:g}",
        "no_verdict": "fewer than two responses have a valid verdict",
        "not_compared": "the judge did not compare the responses",
        "not_revised": "no response was revised",
        "chosen_cut": "the length limit cut the better responses",
    }
    remedies = {
        EQUAL: "raise generation.temperature, and leave generation.top_k at 0",
        "ties": "use a judge that tells responses apart, or set `preferences: {ties: half}`",
        "below_margin": "lower preferences.min_margin",
        "no_verdict": "see verdicts.parquet",
        "not_compared": "use a judge that compares, or other soft_labels",
        "not_revised": "see collect.json",
        "chosen_cut": "raise policy.max_response_tokens, or set preferences.cut_responses to any",
    }
    listed = "; ".join(f"{count} x {causes[outcome]}" for outcome, count in ended.most_common())
    first = ended.most_common(1)[0][0] if ended else "no_verdict"
    raise DataRejected(f"no pair could be built from {len(groups)} prompts ({listed}): {remedies[first]}")


def _is_equal(group: Group) -> bool:
    texts = {text.strip() for _, text in group.responses}
    return len(group.responses) > 1 and len(texts) == 1


def _largest_margin(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> float:
    scored = scores(verdicts)
    known = [
        [scored[key] for number, _ in group.responses if (key := (group.prompt_id, number)) in scored]
        for group in groups
    ]
    return max((max(values) - min(values) for values in known if values), default=0.0)
