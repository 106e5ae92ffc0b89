"""Pairs without a judge: demonstrations over a policy's answers, and later policies' answers over earlier ones'.

`spin` pairs each demonstration with every answer of the round's own policy (Chen et al. 2024, arXiv 2401.01335).
`ditto` adds the answers of earlier rounds, and prefers the present policy's to those of the policies before it (Shaikh
et al. 2024, arXiv 2406.00888). Pure; knows no judge, file or stage.

Answers with the same text count as one. An answer that says what a demonstration of its prompt says is no alternative
to it, and is counted: a policy of which that is true of nearly all answers has converged.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from components.artifacts import derive_seed
from components.config import PreferencesConfig
from components.judges.protocol import Group, SampledTokens
from components.preferences.counts import PAIRED
from components.preferences.tables import pair_row

SHARES = {"current": 0.7, "replay": 0.2, "later": 0.1}
"""Shares of `ditto`'s comparisons (section 3.3 of the paper): demonstrations over the present policy's answers, these
over the answers of earlier rounds, and the present policy's answers over those of earlier policies."""


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations of one prompt."""

    prompt_id: str
    messages: list[dict[str, Any]]
    answers: tuple[str, ...]

    def say(self, text: str) -> bool:
        """Return whether one of them is this text."""
        return text.strip() in {answer.strip() for answer in self.answers}


class EarlierAnswers(NamedTuple):
    """What an earlier round sampled."""

    champion: int
    """Round that made the model that answered."""
    groups: Mapping[str, Group]
    """By prompt_id."""


class DemonstratedPairs(NamedTuple):
    """The pairs of a round."""

    rows: list[dict[str, Any]]
    """Rows of `pair_row`."""
    sampled: list[Group]
    """The answers that the pairs are made of, with their tokens; none of them says what a demonstration says."""
    outcomes: dict[str, str]
    """How each prompt of the round ended, by prompt_id: one of `counts.OUTCOMES`."""
    counts: dict[str, Any]
    """For `collect.json`."""


class _Answer(NamedTuple):
    text: str
    tokens: SampledTokens | None

    @property
    def was_cut(self) -> bool:
        return self.tokens is not None and self.tokens.finish_reason == "length"


class _Pair(NamedTuple):
    prompt_id: str
    chosen: str
    rejected: str


def build_demonstrated(
    demonstrations: Mapping[str, Demonstrations],
    groups: Sequence[Group],
    earlier: Sequence[EarlierAnswers],
    *,
    champion: int,
    source: str,
    preferences: PreferencesConfig,
    seed: int,
) -> DemonstratedPairs:
    """Build the pairs of a round.

    Args:
        demonstrations: By prompt_id; every prompt of the round has one.
        groups: The round's prompts and the answers of its policy.
        earlier: What earlier rounds answered, oldest first; nothing but `ditto` reads it.
        champion: Round that made the round's policy.
        source: Name of the demonstrations, for the pairs' judge.
        preferences: The kind of pairs, and their tag.
        seed: Seed of the stage.
    """
    current = {group.prompt_id: _own_answers(group, demonstrations[group.prompt_id]) for group in groups}
    chosen: dict[str, list[_Pair]] = {"current": _over(demonstrations, current)}
    past: dict[str, dict[str, _Answer]] = {}
    if preferences.pairs == "ditto":
        past, replayed, later = _with_the_past(demonstrations, current, earlier, champion, preferences)
        most = len(chosen["current"]) / SHARES["current"]
        chosen["replay"] = _drawn(replayed, round(most * SHARES["replay"]), derive_seed(seed, "replay"))
        chosen["later"] = _drawn(later, round(most * SHARES["later"]), derive_seed(seed, "later"))
    names = {"current": source, "replay": f"{source}, over earlier rounds", "later": "later rounds over earlier ones"}
    rows = [
        pair_row(
            demonstrations[pair.prompt_id].messages,
            pair.chosen,
            pair.rejected,
            p=1.0,
            margin=None,
            tag=preferences.tag,
            judge=names[kind],
            verdict_ids=[],
        )
        for kind, pairs in chosen.items()
        for pair in pairs
    ]
    prompt_ids = {group.prompt_id: group.prompt_ids for group in groups}
    for each in earlier:
        prompt_ids = {name: group.prompt_ids for name, group in each.groups.items()} | prompt_ids
    sampled = [
        _as_group(demonstrations[name], {**past.get(name, {}), **current.get(name, {})}, prompt_ids[name])
        for name in dict.fromkeys((*current, *past))
    ]
    outcomes = {group.prompt_id: _outcome(group, current[group.prompt_id]) for group in groups}
    counts = _counts(demonstrations, groups) | {"pairs": {kind: len(pairs) for kind, pairs in chosen.items()}}
    return DemonstratedPairs(rows, sampled, outcomes, counts)


def _own_answers(group: Group, demonstrations: Demonstrations) -> dict[str, _Answer]:
    """Return a prompt's distinct answers that no demonstration says, by their text without white space around it."""
    answers: dict[str, _Answer] = {}
    for sample_id, text in group.responses:
        if not demonstrations.say(text):
            answers.setdefault(text.strip(), _Answer(text, group.tokens.get(sample_id)))
    return answers


def _over(demonstrations: Mapping[str, Demonstrations], answers: Mapping[str, Mapping[str, _Answer]]) -> list[_Pair]:
    """Return every demonstration over every answer to its prompt."""
    return [
        _Pair(name, demonstration, answer.text)
        for name, of_prompt in answers.items()
        for demonstration in demonstrations[name].answers
        for answer in of_prompt.values()
    ]


def _with_the_past(
    demonstrations: Mapping[str, Demonstrations],
    current: Mapping[str, Mapping[str, _Answer]],
    earlier: Sequence[EarlierAnswers],
    champion: int,
    preferences: PreferencesConfig,
) -> tuple[dict[str, dict[str, _Answer]], list[_Pair], list[_Pair]]:
    """Return the earlier answers that the round has not given again, and the two kinds of pairs that they make.

    The present policy's answers are preferred to those of the policies that were promoted before it only: after a
    round that was not promoted it is the same policy, and after a rollback the earlier answers may be better ones.
    """
    past: dict[str, dict[str, _Answer]] = {}
    of_former: dict[str, dict[str, _Answer]] = {}
    said_before: defaultdict[str, set[str]] = defaultdict(set)
    for each in earlier:
        for name in each.groups.keys() & demonstrations.keys():
            answers = _own_answers(each.groups[name], demonstrations[name])
            said_before[name] |= answers.keys()
            fresh = {key: answer for key, answer in answers.items() if key not in current.get(name, {})}
            past[name] = fresh | past.get(name, {})
            if each.champion < champion:
                of_former[name] = fresh | of_former.get(name, {})
    later = [
        _Pair(name, answer.text, former.text)
        for name, answers in current.items()
        for key, answer in answers.items()
        if _may_be_chosen(answer, preferences) and key not in said_before[name]
        for former in of_former.get(name, {}).values()
    ]
    return past, _over(demonstrations, past), later


def _may_be_chosen(answer: _Answer, preferences: PreferencesConfig) -> bool:
    return bool(answer.text.strip()) and not (answer.was_cut and preferences.cut_responses == "rejected")


def _drawn(pairs: Sequence[_Pair], number: int, seed: int) -> list[_Pair]:
    """Draw so many pairs, whatever their order; all if there are not so many."""
    ordered = sorted(pairs)
    return sorted(random.Random(seed).sample(ordered, min(number, len(ordered))))


def _as_group(demonstrations: Demonstrations, answers: Mapping[str, _Answer], prompt_ids: tuple[int, ...]) -> Group:
    numbered = list(enumerate(answers.values()))
    return Group(
        demonstrations.prompt_id,
        demonstrations.messages,
        tuple((number, answer.text) for number, answer in numbered),
        prompt_ids=prompt_ids,
        tokens={number: answer.tokens for number, answer in numbered if answer.tokens is not None},
    )


def _outcome(group: Group, answers: Mapping[str, _Answer]) -> str:
    """Return how a prompt ended; answers that all say what a demonstration says tie with it."""
    if answers:
        return PAIRED
    return "ties" if group.responses else "no_verdict"


def _counts(demonstrations: Mapping[str, Demonstrations], groups: Sequence[Group]) -> dict[str, Any]:
    said = [demonstrations[group.prompt_id].say(text) for group in groups for _, text in group.responses]
    used = Counter(len(demonstrations[group.prompt_id].answers) for group in groups)
    return {
        "used": sum(number * count for number, count in used.items()),
        "answers": len(said),
        "equal": sum(said),
        "equal_share": sum(said) / len(said) if said else None,
    }
