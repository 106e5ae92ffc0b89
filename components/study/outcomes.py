"""What the campaign of an arm and a seed reached and took, from the campaign's files. Computes no statistics."""

from pathlib import Path

from components.artifacts import read_json
from components.best_of_n import RESULT
from components.campaign.files import CampaignFiles, RoundFiles, read_campaign, read_manifest, start_of_round
from components.campaign.state import read_state
from components.records import Record


class Point(Record):
    """A model on the way: where it lies between reward and distance from the start."""

    round: int
    promoted: bool
    reward: float | None
    """Mean judge score of its held-out answers; None for a judge that only compares."""
    kl: float
    """KL to the start model, in nats a response."""
    win_rate: float
    """Against the start model's answers, in [0, 1]."""
    tokens: float
    """Mean length of its held-out answers."""


class Outcome(Record):
    """An arm with one seed, when its work is done."""

    arm: str
    seed: int
    campaign: str | None
    """None for an arm that trains nothing."""
    points: tuple[Point, ...]
    """The models of the rounds in order."""
    final: Point
    """The champion behind the last round, also after a rollback; round 0 is the start model itself."""
    start_reward: float | None
    """Mean judge score of the start model's held-out answers."""
    generated_tokens: int
    """Tokens sampled to train on."""
    verdicts: int
    """What the judge said of them; an answer that is scored alone is one."""
    seconds: float
    """Seconds of all stages, the evaluations too."""
    peak_memory_bytes: int
    """Largest memory of a stage."""
    measured_by: dict[str, str]
    """What it started from and was measured by, as digests by what they are: equal for all that may be compared."""


def read_outcome(directory: Path, *, arm: str, seed: int, rounds: int) -> Outcome | None:
    """Return the outcome of a campaign; None before its last round is finished.

    Args:
        directory: The campaign's directory.
        arm: Name of the arm.
        seed: Seed of the campaign.
        rounds: Rounds that the arm has.
    """
    state = read_state(directory)
    if state is None or state.last_round < rounds:
        return None
    campaign = read_campaign(directory)
    files = [campaign.round_files(number) for number in range(1, rounds + 1)]
    points = tuple(_point(each) for each in files)
    champion = state.champion_before(rounds + 1)
    manifests = [manifest for each in files for manifest in each.manifests.values()]
    return Outcome(
        arm=arm,
        seed=seed,
        campaign=campaign.name,
        points=points,
        final=points[champion - 1] if champion else _start(campaign),
        start_reward=_rewards(files[0])["start"],
        generated_tokens=sum((each.generated or {}).get("tokens", 0) for each in files),
        verdicts=sum(map(_verdicts, files)),
        seconds=sum(sum(record.seconds.values()) for record in campaign.finished[:rounds]),
        peak_memory_bytes=max(manifest.peak_memory_bytes for manifest in manifests),
        measured_by=_measured_by(directory),
    )


def best_of_n_outcome(directory: Path, *, arm: str, seed: int) -> Outcome:
    """Return the outcome of an arm that trains nothing, from its published stage.

    Args:
        directory: Directory of the stage.
        arm: Name of the arm.
        seed: Its seed.
    """
    reached, manifest = read_json(directory / RESULT), read_manifest(directory)
    assert manifest is not None, directory
    campaign = directory.parent.parent
    rewards = reached["mean_reward"] or {"challenger": None, "start": None}
    point = Point(
        round=1,
        promoted=True,
        reward=rewards["challenger"],
        kl=reached["kl_to_start"],
        win_rate=reached["win_rate_vs_start"]["value"],
        tokens=reached["mean_tokens"]["challenger"],
    )
    return Outcome(
        arm=arm,
        seed=seed,
        campaign=None,
        points=(point,),
        final=point,
        start_reward=rewards["start"],
        generated_tokens=0,
        verdicts=0,
        seconds=manifest.seconds,
        peak_memory_bytes=manifest.peak_memory_bytes,
        measured_by=_measured_by(campaign),
    )


def _measured_by(directory: Path) -> dict[str, str]:
    start, manifest = start_of_round(directory, 1)
    assert start is not None, directory
    assert manifest is not None, directory
    return {
        "start model": start["model"]["digest"],
        "held-out prompts": manifest.files["held_out_prompts.parquet"].sha256,
        "evaluation judge": start["evaluation_judge"]["digest"],
    }


def _verdicts(files: RoundFiles) -> int:
    """Return what was asked of the judge of the pairs, and of the costly one."""
    counts = files.collected or {}
    return int(counts["verdicts"]) + int((counts.get("active") or {}).get("asked", 0))


def _point(files: RoundFiles) -> Point:
    record = files.record
    assert record is not None, files.directory
    return Point(
        round=record.round,
        promoted=record.promoted,
        reward=record.mean_reward,
        kl=record.kl_to_start,
        win_rate=record.win_rate_vs_start.value,
        tokens=record.mean_tokens,
    )


def _start(campaign: CampaignFiles) -> Point:
    first = campaign.round_files(1)
    tokens = (first.evaluated or {})["mean_tokens"]["start"]
    return Point(round=0, promoted=False, reward=_rewards(first)["start"], kl=0.0, win_rate=0.5, tokens=tokens)


def _rewards(files: RoundFiles) -> dict[str, float | None]:
    return (files.evaluated or {})["mean_reward"] or {"start": None}
