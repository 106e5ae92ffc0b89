"""The jury: several judges vote on every pair of a prompt's responses, and how far they agree becomes a probability.

A juror that scores votes for the response with the higher score; one that compares votes as it concludes. A juror whose
verdict is invalid abstains. What the jurors said stands beside the jury's conclusions, under their names.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from components import artifacts
from components.config import JudgeConfig
from components.data.messages import Messages
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, as_part, make_verdict
from components.judges.registry import AnyJudge, check_judge, judge_digest, load_judge
from components.judges.votes import PairKey, aggregated, vote_of

Ballots = dict[PairKey, dict[str, float | None]]
"""By pair and juror who looked at it: the vote, None for an abstention."""


@dataclass(frozen=True)
class Juror:
    """A judge of the jury, and how many votes it has."""

    load: Callable[[], Judge]
    """Makes the judge; its model is in memory only while it judges."""
    weight: float


class JuryJudge:
    """Concludes once on every pair of responses that a juror looked at, in the order of the group."""

    def __init__(self, jurors: Sequence[Juror], *, votes: str) -> None:
        """Takes the jurors, and the name of how their votes become a probability."""
        self.name = f"jury:{votes}"
        self._jurors = tuple(jurors)
        self._votes = votes

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Every juror's verdicts, then the jury's conclusions; a pair on which nobody could vote is invalid.

        Raises:
            JudgeUnavailable: A juror cannot be reached, or its budget is used up.
        """
        said: dict[str, list[Verdict]] = {}
        weights: dict[str, float] = {}
        for juror in self._jurors:
            name, verdicts = _heard(juror, groups)
            name = _distinct(name, said)
            said[name], weights[name] = verdicts, juror.weight
        cast = ballots(groups, said)
        voted = {pair: votes for pair, several in cast.items() if (votes := _without_abstentions(several))}
        concluded = aggregated(self._votes, voted, weights)
        return [*_under_their_names(said), *self._conclusions(groups, cast, concluded)]

    def _conclusions(self, groups: Sequence[Group], cast: Ballots, concluded: Mapping[PairKey, float]) -> list[Verdict]:
        found = []
        for group, pair in _pairs(groups):
            if pair not in cast:
                continue
            votes = _without_abstentions(cast[pair])
            if votes:
                opinion = Opinion(
                    concluded[pair], f"{math.fsum(votes.values()):g} of {len(votes)} jurors for the first"
                )
            else:
                opinion = Opinion(None, f"no juror could judge the pair ({len(cast[pair])} abstained)")
            found.append(make_verdict(self.name, group, pair.first, opinion, opponent_id=pair.second))
        return found


def _heard(juror: Juror, groups: Sequence[Group]) -> tuple[str, list[Verdict]]:
    """A juror's name and verdicts; the judge ends with the call, and its memory with it."""
    judge = juror.load()
    return judge.name, judge.judge(groups)


def load(config: AnyJudge, context: JudgeContext) -> Judge:
    """Return the jury; each juror is loaded when it judges."""
    assert isinstance(config, JudgeConfig)
    return JuryJudge(
        [Juror(partial(load_judge, juror, context), juror.weight) for juror in config.jurors], votes=config.votes
    )


def digest(config: AnyJudge) -> str:
    """Return the identity of a jury: its jurors' digests and weights in their order, and how it votes."""
    assert isinstance(config, JudgeConfig)
    return artifacts.digest(
        {"jurors": [(judge_digest(juror), juror.weight) for juror in config.jurors], "votes": config.votes}
    )


def check(config: AnyJudge, prompts: Sequence[Messages]) -> None:
    """Check each juror.

    Raises:
        ValueError: As the jurors' own checks.
    """
    assert isinstance(config, JudgeConfig)
    for juror in config.jurors:
        check_judge(juror, prompts)


def ballots(groups: Sequence[Group], said: Mapping[str, Sequence[Verdict]]) -> Ballots:
    """What each juror's conclusions mean as votes on the groups' pairs.

    Args:
        groups: What was judged.
        said: By juror, all its verdicts.
    """
    found: defaultdict[PairKey, dict[str, float | None]] = defaultdict(dict)
    for juror, verdicts in said.items():
        alone, compared = _conclusions_of(verdicts)
        for _, pair in _pairs(groups):
            if pair in compared:
                found[pair][juror] = _mean(compared[pair])
            elif (pair.prompt_id, pair.first) in alone and (pair.prompt_id, pair.second) in alone:
                first, second = alone[pair.prompt_id, pair.first], alone[pair.prompt_id, pair.second]
                found[pair][juror] = None if first is None or second is None else vote_of(first, second)
    return dict(found)


def _conclusions_of(
    verdicts: Iterable[Verdict],
) -> tuple[dict[tuple[str, int], float | None], Mapping[PairKey, list[float | None]]]:
    """The score of each response, and for each pair, in either order, the probabilities that its first response is better."""
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


def _under_their_names(said: Mapping[str, Sequence[Verdict]]) -> Iterable[Verdict]:
    for juror, verdicts in said.items():
        for verdict in verdicts:
            yield as_part(verdict, juror)


def _distinct(name: str, taken: Iterable[str]) -> str:
    """The name, with a number where another juror has it."""
    numbered = (f"{name}#{number}" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
