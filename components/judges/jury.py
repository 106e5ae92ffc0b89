"""The jury: several judges vote on every pair of a prompt's responses, and their votes become a probability.

A juror that scores votes for the response with the higher score; one that compares votes by its conclusion. A juror
whose verdict is invalid abstains. The jury returns the jurors' verdicts, as parts under their names, and its own
conclusions.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from components import artifacts
from components.config import JudgeConfig
from components.data.messages import Messages
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, as_part, make_verdict
from components.judges.registry import AnyJudge, check_judge, judge_digest, load_judge
from components.judges.votes import PairKey, aggregate_votes, vote_of

Ballots = dict[PairKey, dict[str, float | None]]
"""By pair and juror who judged it: the vote, None for an abstention."""


@dataclass(frozen=True)
class Juror:
    """A judge of the jury, with the number of votes that it has."""

    load: Callable[[], Judge]
    """Creates the judge; its model is in memory only while it judges."""
    weight: float
    is_people: bool = False


class JuryJudge:
    """Give one conclusion on every pair of responses that a juror judged, in the order of the group."""

    def __init__(self, jurors: Sequence[Juror], *, votes: str) -> None:
        """Store the jurors and the name of the method in `VOTES` that aggregates their votes."""
        self.name = f"jury:{votes}"
        self._jurors = tuple(jurors)
        self._votes = votes

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Return every juror's verdicts, then the jury's conclusions; a pair without a vote is invalid.

        Raises:
            JudgeUnavailable: A juror cannot be reached, or its budget is used up.
            RoundWaits: People are a juror, and their votes do not suffice yet.
        """
        verdicts_by_juror: dict[str, list[Verdict]] = {}
        weights: dict[str, float] = {}
        # People first: while the round waits for them, no other juror is loaded or asked.
        people_first = sorted(range(len(self._jurors)), key=lambda number: not self._jurors[number].is_people)
        answers = {number: _run_juror(self._jurors[number], groups) for number in people_first}
        for number, juror in enumerate(self._jurors):
            name, verdicts = answers[number]
            name = _distinct(name, verdicts_by_juror)
            verdicts_by_juror[name], weights[name] = verdicts, juror.weight
        cast = ballots(groups, verdicts_by_juror)
        votes = {pair: valid for pair, ballot in cast.items() if (valid := _without_abstentions(ballot))}
        probabilities = aggregate_votes(self._votes, votes, weights)
        return [*_as_parts(verdicts_by_juror), *self._conclusions(groups, cast, probabilities)]

    def _conclusions(
        self, groups: Sequence[Group], cast: Ballots, probabilities: Mapping[PairKey, float]
    ) -> list[Verdict]:
        verdicts = []
        for group, pair in _pairs(groups):
            if pair not in cast:
                continue
            votes = _without_abstentions(cast[pair])
            if votes:
                opinion = Opinion(
                    probabilities[pair], f"{math.fsum(votes.values()):g} of {len(votes)} jurors for the first"
                )
            else:
                opinion = Opinion(None, f"no juror could judge the pair ({len(cast[pair])} abstained)")
            verdicts.append(make_verdict(self.name, group, pair.first, opinion, opponent_id=pair.second))
        return verdicts


def _run_juror(juror: Juror, groups: Sequence[Group]) -> tuple[str, list[Verdict]]:
    """Return a juror's name and verdicts; the judge and its memory are released with the call."""
    judge = juror.load()
    return judge.name, judge.judge(groups)


def load(config: AnyJudge, context: JudgeContext) -> Judge:
    """Return the jury; each juror is loaded when it judges."""
    assert isinstance(config, JudgeConfig)
    return JuryJudge(
        [
            Juror(partial(load_judge, juror, context), juror.weight, is_people=juror.kind == "people")
            for juror in config.jurors
        ],
        votes=config.votes,
    )


def digest(config: AnyJudge) -> str:
    """Return the identity of a jury: its jurors' digests and weights in their order, and the method of its votes."""
    assert isinstance(config, JudgeConfig)
    return artifacts.digest(
        {"jurors": [(judge_digest(juror), juror.weight) for juror in config.jurors], "votes": config.votes}
    )


def check(config: AnyJudge, prompts: Sequence[Messages], columns: Collection[str] | None) -> None:
    """Check each juror.

    Raises:
        ValueError: As the jurors' own checks.
    """
    assert isinstance(config, JudgeConfig)
    for juror in config.jurors:
        check_judge(juror, prompts, columns)


def ballots(groups: Sequence[Group], verdicts_by_juror: Mapping[str, Sequence[Verdict]]) -> Ballots:
    """Turn each juror's conclusions into votes on the groups' pairs.

    Args:
        groups: What was judged.
        verdicts_by_juror: All verdicts of each juror.
    """
    cast: defaultdict[PairKey, dict[str, float | None]] = defaultdict(dict)
    for juror, verdicts in verdicts_by_juror.items():
        alone, compared = _conclusions_of(verdicts)
        for _, pair in _pairs(groups):
            if pair in compared:
                cast[pair][juror] = _mean(compared[pair])
            elif (pair.prompt_id, pair.first) in alone and (pair.prompt_id, pair.second) in alone:
                first, second = alone[pair.prompt_id, pair.first], alone[pair.prompt_id, pair.second]
                cast[pair][juror] = None if first is None or second is None else vote_of(first, second)
    return dict(cast)


def _conclusions_of(
    verdicts: Iterable[Verdict],
) -> tuple[dict[tuple[str, int], float | None], Mapping[PairKey, list[float | None]]]:
    """Return the score of each response, and by pair, in either order, the probabilities that its first is better."""
    alone: dict[tuple[str, int], float | None] = {}
    compared: defaultdict[PairKey, list[float | None]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.part:
            continue
        if verdict.opponent_id is None:
            alone[verdict.prompt_id, verdict.sample_id] = verdict.score
            continue
        compared[PairKey(verdict.prompt_id, verdict.sample_id, verdict.opponent_id)].append(verdict.score)
        other_way = None if verdict.score is None else 1 - verdict.score
        compared[PairKey(verdict.prompt_id, verdict.opponent_id, verdict.sample_id)].append(other_way)
    return alone, compared


def _mean(votes: Sequence[float | None]) -> float | None:
    valid = [vote for vote in votes if vote is not None]
    return math.fsum(valid) / len(valid) if valid else None


def _pairs(groups: Sequence[Group]) -> Iterable[tuple[Group, PairKey]]:
    for group in groups:
        for (first, _), (second, _) in itertools.combinations(group.responses, 2):
            yield group, PairKey(group.prompt_id, first, second)


def _without_abstentions(votes: Mapping[str, float | None]) -> dict[str, float]:
    return {juror: vote for juror, vote in votes.items() if vote is not None}


def _as_parts(verdicts_by_juror: Mapping[str, Sequence[Verdict]]) -> Iterable[Verdict]:
    for juror, verdicts in verdicts_by_juror.items():
        for verdict in verdicts:
            yield as_part(verdict, juror)


def _distinct(name: str, taken: Iterable[str]) -> str:
    """Return the name, with a number if another juror has it."""
    numbered = (f"{name}#{number}" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
