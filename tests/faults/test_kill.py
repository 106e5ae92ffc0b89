"""kill -9 at each write, and at random moments.

The same command finishes the campaign, with the same bytes and nothing done twice.
"""

import os
import random
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.faults.campaigns import KILLED, WHOLE, Campaign, check_same

KILLS = int(os.environ.get("RATCHET_KILLS", "20" if WHOLE else "1"))
SAMPLE = (
    "before replace */.flow_run behind nothing*",
    "before rename */round-001/generate_responses behind *",
    "after rename */checkpoints/*/step-000012 behind *",
    "after replace */.dpo_train.tmp-*/MANIFEST.json behind *",
    "after rename */round-001/dpo_train behind *",
    "before replace */campaign.json behind */promote (1)",
    "before commit mlflow.db behind *",
    "before replace */report.html behind *",
)
"""Points of the short form, one for each pattern: each kind of write, and each call around a rename."""


def points_around_writes(points: list[str]) -> list[str]:
    """Return the points between which the disk differs: those after a sync are those before the next call.

    What `os.makedirs` tries on a directory that exists changes nothing. MLflow makes its tables by many commits in a
    file that is thrown away unless it is finished; one of them is enough.
    """
    calls = "rename|replace|link|commit"
    return [
        point
        for point in points
        if re.match(rf"before (?!mkdir)|after ({calls})", point)
        and "spent.json" not in point
        and (".making.tmp" not in point or point.endswith("(20)"))
    ]


def chosen(points: list[str]) -> list[str]:
    """Return the points to be struck: in the short form the middle one for each pattern of the sample."""
    if WHOLE:
        return points
    matches = {pattern: [point for point in points if fnmatchcase(point, pattern)] for pattern in SAMPLE}
    missing = [pattern for pattern, found in matches.items() if not found]
    assert missing == [], points
    return [found[len(found) // 2] for found in matches.values()]


@pytest.mark.timeout(6 * 3600 if WHOLE else 900)
def test_start_killed_at_each_write_is_finished_by_the_same_command(
    undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    """A campaign is started until no point is reached that is left; the next one begins with those left.

    What a point struck leaves behind may keep the same start from reaching the next one.
    """
    left = chosen(points_around_writes(undisturbed.points()))
    number = 0
    while left:
        campaign = Campaign(tmp_path / f"killed-{number}", model)
        struck = kill_until_it_finishes(campaign, left)
        assert struck, ("not reached", left)
        left = [point for point in left if point not in struck]
        check_same(campaign, undisturbed)
        number += 1


def kill_until_it_finishes(campaign: Campaign, points: list[str]) -> list[str]:
    """Start a campaign again and again, killed at the first point that it was not killed at; return the points."""
    struck: list[str] = []
    done: dict[str, str] = {}
    while True:
        left = [point for point in points if point not in struck]
        ended = campaign.run(action="kill", points=left)
        published = campaign.manifests()
        assert {name: published.get(name) for name in done} == done, ("a finished stage ran again", struck[-1:])
        done = published
        if ended.code != KILLED:
            ended.went_well()
            return struck
        struck += [campaign.points()[-1]]
        print(f"{campaign.place.name}: killed {struck[-1]}", flush=True)


@pytest.mark.timeout(3600)
def test_start_killed_at_random_moments_is_finished_by_the_same_command(model: Path, tmp_path: Path) -> None:
    whole = Campaign(tmp_path / "whole", model, rounds=2)
    seconds = whole.finish()
    chance = random.Random(int(os.environ.get("RATCHET_KILL_SEED", "1")))
    kills = number = 0
    while kills < KILLS:
        campaign = Campaign(tmp_path / f"killed-{number}", model, rounds=2)
        kills += kill_at_random(campaign, seconds, chance, at_most=KILLS - kills)
        check_same(campaign, whole)
        number += 1


def kill_at_random(campaign: Campaign, seconds: float, chance: random.Random, *, at_most: int) -> int:
    """Start a campaign again and again, killing it at random moments, until a start finishes first.

    Returns how often it was killed.
    """
    done: dict[str, str] = {}
    for kills in range(at_most):
        child = campaign.start()
        try:
            assert child.wait(timeout=chance.uniform(0.1, 0.9) * seconds) == 0, campaign.log()
            return kills
        except subprocess.TimeoutExpired:
            campaign.kill_all(child)
        published = campaign.manifests()
        assert {name: published.get(name) for name in done} == done, "a finished stage ran again"
        done = published
        print(f"{campaign.place.name}: killed with {len(done)} stages published", flush=True)
    campaign.finish()
    published = campaign.manifests()
    assert {name: published[name] for name in done} == done, "a finished stage ran again"
    return at_most
