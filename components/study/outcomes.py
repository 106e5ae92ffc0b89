"""What the campaign of an arm and a seed reached and took, from the campaign's files. Computes no statistics."""

from pathlib import Path

from components.artifacts import read_json
from components.campaign.files import CampaignFiles, RoundFiles, read_campaign, read_manifest
from components.campaign.state import read_state
from components.records import Record

BEST_OF_N = "best_of_n.json"


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
    """The champion in the end; round 0 is the start model itself, if no round was promoted."""
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
    promoted = [point for point in points if point.promoted]
    manifests = [manifest for each in files for manifest in each.manifests.values()]
    return Outcome(
        arm=arm,
        seed=seed,
        campaign=campaign.name,
        points=points,
        final=promoted[-1] if promoted else _start(campaign),
        start_reward=_rewards(files[0])["start"],
        generated_tokens=sum((each.generated or {}).get("tokens", 0) for each in files),
        verdicts=sum((each.collected or {})["verdicts"] for each in files),
        seconds=sum(sum(record.seconds.values()) for record in campaign.finished[:rounds]),
        peak_memory_bytes=max(manifest.peak_memory_bytes for manifest in manifests),
    )


def best_of_n_outcome(directory: Path, *, arm: str, seed: int) -> Outcome:
    """Return the outcome of an arm that trains nothing, from its published stage.

    Args:
        directory: Directory of the stage.
        arm: Name of the arm.
        seed: Its seed.
    """
    reached, manifest = read_json(directory / BEST_OF_N), read_manifest(directory)
    assert manifest is not None, directory
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
    )


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
