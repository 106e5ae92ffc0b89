"""What people's votes say about the judges that judged the same pairs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from components.artifacts import read_record, write_json
from components.campaign.files import PEOPLE
from components.judges.jury import ballots
from components.judges.people import NAME, REPORT
from components.judges.people_votes import PeopleReport
from components.judges.protocol import BY, Group, Judge, Verdict
from components.judges.votes import PairKey
from components.preferences.active.refine import COSTLY
from components.records import Interval, Record
from components.statistics.agreement import agreement_with, cohen_kappa

PeopleVotes = dict[PairKey, dict[str, float]]
"""By pair and annotator: the share of the vote that the first answer gets."""


class JudgeAgreement(Record):
    """How a judge decides the pairs that people decided."""

    agreement: Interval | None
    """How often it prefers the answer that a person prefers, where both decided; None if there is no such pair."""
    cohen_kappa: float | None
    pairs: int
    """Pairs that people voted on and the judge judged."""


class PeopleMeasured(PeopleReport):
    """Content of `people.json`: the people, their votes, and the judges measured by them."""

    judges: dict[str, JudgeAgreement]


def write_people(
    out: Path,
    groups: Sequence[Group],
    verdicts: Sequence[Verdict],
    *,
    scratch: Path,
    checked: Judge | None,
    seed: int,
) -> None:
    """Write `people.json`, also if nobody's vote counts.

    Args:
        out: Directory.
        groups: Prompts and responses.
        verdicts: All verdicts of the round, those of people among them.
        scratch: Where the judge of people left its report.
        checked: A judge that is asked about the pairs that people voted on; None asks none.
        seed: Seed of the intervals.
    """
    if not (scratch / REPORT).exists():  # no two answers differed, so there was nothing to ask
        return
    votes = people_votes(verdicts)
    items = _items(groups, votes)
    by_judge = other_judges(verdicts)
    if votes and checked is not None and checked.name not in by_judge:
        by_judge[checked.name] = checked.judge(_voted_pairs(groups, items))
    report = read_record(PeopleReport, scratch / REPORT)
    judges = {
        name: _agreement(votes, items, ballots(groups, {name: conclusions}), name, seed)
        for name, conclusions in by_judge.items()
    }
    write_json(out / PEOPLE, PeopleMeasured(**dict(report), judges=judges))


def people_votes(verdicts: Iterable[Verdict]) -> PeopleVotes:
    """Return each person's vote on each pair, wherever people were asked."""
    votes: defaultdict[PairKey, dict[str, float]] = defaultdict(dict)
    for verdict in verdicts:
        name = verdict.part.rpartition("/")[2]
        if verdict.judge == NAME and name.startswith(BY) and verdict.score is not None:
            assert verdict.opponent_id is not None
            pair = PairKey(verdict.prompt_id, verdict.sample_id, verdict.opponent_id)
            votes[pair][name.removeprefix(BY)] = verdict.score
    return dict(votes)


def other_judges(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Return by name the conclusions of the judges that are not people, and of no jury that people sat on."""
    with_people = {verdict.part.rpartition("/")[0] for verdict in verdicts if verdict.part.endswith(f"{NAME}")}
    by_judge: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        within, _, last = verdict.part.rpartition("/")
        is_conclusion = verdict.part in ("", COSTLY) or (within in ("", COSTLY) and last.startswith(verdict.judge))
        is_own = verdict.judge == NAME or (verdict.judge.startswith("jury:") and verdict.part in with_people)
        if is_conclusion and not is_own:
            by_judge[verdict.judge].append(replace(verdict, part=""))
    return dict(by_judge)


def _items(groups: Sequence[Group], votes: PeopleVotes) -> dict[PairKey, tuple[PairKey, bool]]:
    """Return by pair the first one with the same texts, and whether its answers change places.

    People judge two texts once, however often the model sampled them, so that they are evidence once.
    """
    by_prompt = {group.prompt_id: dict(group.responses) for group in groups}
    firsts: dict[tuple[str, ...], PairKey] = {}
    items = {}
    for pair in votes:
        texts = by_prompt[pair.prompt_id][pair[1]], by_prompt[pair.prompt_id][pair[2]]
        first = firsts.setdefault((pair.prompt_id, *sorted(texts)), pair)
        items[pair] = first, by_prompt[pair.prompt_id][first[1]] != texts[0]
    return items


def _voted_pairs(groups: Sequence[Group], items: Mapping[PairKey, tuple[PairKey, bool]]) -> list[Group]:
    """Return a group of two responses for each two texts that people voted on."""
    by_prompt = {group.prompt_id: group for group in groups}
    return [
        replace(
            by_prompt[pair.prompt_id],
            responses=tuple(one for one in by_prompt[pair.prompt_id].responses if one[0] in pair[1:]),
        )
        for pair in sorted({first for first, _ in items.values()})
    ]


def _agreement(
    votes: PeopleVotes,
    items: Mapping[PairKey, tuple[PairKey, bool]],
    cast: Mapping[PairKey, Mapping[str, float | None]],
    name: str,
    seed: int,
) -> JudgeAgreement:
    by_item: defaultdict[PairKey, list[float]] = defaultdict(list)
    for pair, (first, is_turned) in items.items():
        vote = cast.get(pair, {}).get(name)
        if vote is not None:
            by_item[first].append(1.0 - vote if is_turned else vote)
    judged = {repr(tuple(item)): fmean(each) for item, each in by_item.items()}
    of_people = {repr(tuple(item)): votes[item] for item in by_item}
    couples = [(judged[pair], vote) for pair, cast_votes in of_people.items() for vote in cast_votes.values()]
    kappa = cohen_kappa([judge for judge, _ in couples], [vote for _, vote in couples]) if couples else None
    return JudgeAgreement(
        agreement=agreement_with(of_people, judged, seed=seed), cohen_kappa=kappa, pairs=len(of_people)
    )
