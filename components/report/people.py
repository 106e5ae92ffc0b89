"""Turn the votes of people, and what they say about the judges, into rows and alarms. Reads no files."""

import math
from collections.abc import Sequence
from typing import Any

from components.campaign.files import RoundFiles
from components.records import Interval, RoundRecord
from components.report.wording import NOTHING, count, decimal, share, share_interval
from components.statistics import intervals
from components.statistics.agreement import CONFIDENCE

HEADINGS = (
    "pairs",
    "with votes",
    "people",
    "people agree",
    "Krippendorff's alpha",
    "judge",
    "agrees with people",
    "Cohen's kappa",
)
ANNOTATOR_HEADINGS = ("person", "votes", "skips", "right on gold", "agrees with others", "chose the left", "seconds")
NOTE = (
    "People agree: how often two who both decided prefer the same answer of a pair. Agrees with people: how often the "
    "judge prefers the answer that a person prefers. Ties are no decision; alpha and Cohen's kappa take them as a "
    "category, and are 0 at the agreement of chance. Intervals are at 95 % over pairs. If people are the costly judge, "
    "the pairs are those of which the judge was least sure, so it agrees less there than elsewhere. A person whose "
    "whole interval on gold questions is below people.min_gold_accuracy is not counted."
)


def people_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for each judge that is measured by the round's people, at least one; columns are `HEADINGS`."""
    if files.people is None:
        return []
    people = files.people
    own = (
        count(people["asked"]),
        count(people["labelled"]),
        count(sum(annotator["is_counted"] for annotator in people["annotators"].values())),
        _estimate(people["agreement"]),
        decimal(people["krippendorff_alpha"], 2),
    )
    judges = people["judges"] or {NOTHING: {"agreement": None, "cohen_kappa": None}}
    return [
        (*own, name, _estimate(judge["agreement"]), decimal(judge["cohen_kappa"], 2)) for name, judge in judges.items()
    ]


def annotator_rows(files: RoundFiles) -> list[tuple[str, ...]]:
    """Return a row for each person who voted in the round; the columns are `ANNOTATOR_HEADINGS`."""
    annotators = {} if files.people is None else files.people["annotators"]
    return [
        (
            name if annotator["is_counted"] else f"{name} (not counted)",
            count(annotator["votes"]),
            count(annotator["skips"]),
            _estimate(annotator["gold"]),
            _estimate(annotator["agreement"]),
            _estimate(annotator["left_share"]),
            decimal(annotator["median_seconds"], 1),
        )
        for name, annotator in annotators.items()
    ]


def judge_alarms(rounds: Sequence[RoundRecord]) -> list[str]:
    """Return what the last round's people say against its judges; nothing if it had no people.

    A judge drifts if it surely agrees with people less often than in all earlier rounds together. It is surely worse
    than people if it agrees with them less often than they agree with each other.

    Args:
        rounds: Finished rounds, oldest first.
    """
    people = rounds[-1].people if rounds else None
    if people is None:
        return []
    alarms = []
    for name, now in people.judges.items():
        earlier = [record.people.judges for record in rounds[:-1] if record.people is not None]
        before = _together([judges[name] for judges in earlier if name in judges])
        agreement = f"judge {name} agrees with people on {_words(now)} of the pairs"
        if before is not None and intervals.difference(before, now).high < 0:
            alarms.append(f"{agreement}, and in earlier rounds on {_words(before)}: it drifts away from people")
        if people.agreement is not None and intervals.difference(people.agreement, now).high < 0:
            alarms.append(f"{agreement}, and people with each other on {_words(people.agreement)}")
    return alarms


def _together(agreements: Sequence[Interval]) -> Interval | None:
    """Return the agreement over the pairs of several rounds."""
    total = sum(agreement.n for agreement in agreements)
    if not total:
        return None
    agreed = math.fsum(agreement.value * agreement.n for agreement in agreements)
    return intervals.share(round(agreed), total, confidence=CONFIDENCE)


def _estimate(interval: dict[str, Any] | None) -> str:
    return share_interval(None if interval is None else Interval.model_validate(interval))


def _words(interval: Interval) -> str:
    return f"{share(interval.value)} ({share(interval.low)} to {share(interval.high)})"
