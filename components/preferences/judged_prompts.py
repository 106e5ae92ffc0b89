"""What a judge's verdicts say of each prompt's answers. Knows no builder."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from components.judges.protocol import Group, Key, Verdict, scores
from components.preferences.candidates import Answer, JudgedPrompt
from components.preferences.verdict_table import conclusions

Compared = Mapping[tuple[int, int], float]
"""Mean probability that the first sample is better than the second, in both orders."""


def judged_prompts(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> list[JudgedPrompt]:
    """One for each group, in order."""
    scored, compared = scores(verdicts), _compared(verdicts)
    return [_judged(group, scored, compared.get(group.prompt_id, {})) for group in groups]


def _judged(group: Group, scored: Mapping[Key, float], compared: Compared) -> JudgedPrompt:
    said: defaultdict[str, list[tuple[int, str, float]]] = defaultdict(list)
    for sample_id, text in group.responses:
        if (group.prompt_id, sample_id) in scored:
            said[text.strip()].append((sample_id, text, scored[group.prompt_id, sample_id]))
    answers = tuple(_answer(responses) for responses in said.values())
    comparisons = {}
    for one, other in combinations(answers, 2):
        found = [compared[first, second] for first in one.sample_ids for second in other.sample_ids if (first, second) in compared]
        if found:
            comparisons[one.sample_id, other.sample_id] = math.fsum(found) / len(found)
            comparisons[other.sample_id, one.sample_id] = 1 - comparisons[one.sample_id, other.sample_id]
    return JudgedPrompt(group.prompt_id, answers, comparisons)


def _answer(responses: Sequence[tuple[int, str, float]]) -> Answer:
    """Responses that differ in outer white space at most, as one answer: the first one's text, and their mean score."""
    given = [score for _, _, score in responses]
    mean = given[0] if len(set(given)) == 1 else math.fsum(given) / len(given)
    return Answer(tuple(sample_id for sample_id, _, _ in responses), responses[0][1], mean)


def _compared(verdicts: Sequence[Verdict]) -> dict[str, dict[tuple[int, int], float]]:
    found: defaultdict[str, defaultdict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for verdict in conclusions(verdicts):
        if verdict.opponent_id is not None and verdict.score is not None:
            found[verdict.prompt_id][verdict.sample_id, verdict.opponent_id].append(verdict.score)
            found[verdict.prompt_id][verdict.opponent_id, verdict.sample_id].append(1 - verdict.score)
    return {name: {two: math.fsum(said) / len(said) for two, said in pairs.items()} for name, pairs in found.items()}
