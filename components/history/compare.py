"""Compare two rounds, of one campaign or of two: decisions, numbers, configuration, digests, answers.

Reads files only.
"""

import os
from dataclasses import dataclass

from components.campaign.config import FREE_TO_CHANGE, config_of_round
from components.campaign.files import CampaignFiles, RoundFiles, read_campaign, start_of_round
from components.campaign.state import campaign_directory, known_state
from components.config import EvaluationConfig, differences
from components.history.comparable import Measured, findings
from components.history.names import RoundName
from components.records import Interval, RoundRecord
from components.report.samples import SampleAnswer, read_samples
from components.report.wording import NOTHING, count, decimal, duration, estimate, model_name, stage_name

NUM_SAMPLES = 3


@dataclass(frozen=True)
class Row:
    """One property of both rounds: its name and its value in each."""

    what: str
    left: str
    right: str


@dataclass(frozen=True)
class SharedSample:
    """Both challengers' answers to one held-out prompt."""

    prompt: str
    left: SampleAnswer
    right: SampleAnswer


@dataclass(frozen=True)
class RoundComparison:
    """The differences between two rounds, from their files."""

    names: tuple[str, str]
    measures: tuple[Row, ...]
    warnings: tuple[str, ...]
    """Reasons why the numbers of the two rounds must not be compared; empty if they may be."""
    findings: tuple[str, ...]
    """What the win rates say about the two rounds, as far as they can be compared; empty with `warnings`."""
    config: tuple[str, ...]
    """Keys of the configuration that differ, as `key: left -> right`."""
    digests: tuple[Row, ...]
    samples: tuple[SharedSample, ...]
    page: str | None
    """Address of MLflow's page with both runs; None without a server, or before both are recorded."""


@dataclass(frozen=True)
class _Side:
    name: RoundName
    campaign: CampaignFiles
    files: RoundFiles
    record: RoundRecord


def compare_rounds(left: RoundName, right: RoundName) -> RoundComparison:
    """Compare two finished rounds.

    Raises:
        ValueError: A campaign does not exist, or a round is not finished.
    """
    sides = _side(left), _side(right)
    digests = _digests(*sides)
    warnings = _warnings(digests, *sides)
    return RoundComparison(
        names=(str(left), str(right)),
        measures=tuple(_rows(*(_measures(side) for side in sides))),
        warnings=tuple(warnings),
        findings=() if warnings else tuple(findings(*(_measured(side) for side in sides))),
        config=tuple(_config_changes(*sides)),
        digests=digests,
        samples=tuple(_shared_samples(*sides)),
        page=_page(*sides),
    )


def _side(name: RoundName) -> _Side:
    state = known_state(name.campaign)
    record = next((record for record in state.rounds if record.round == name.round), None)
    if record is None:
        finished = ", ".join(str(record.round) for record in state.rounds) or "none"
        raise ValueError(
            f"{name} is not a finished round: the finished rounds of campaign {name.campaign} are {finished}"
        )
    campaign = read_campaign(campaign_directory(name.campaign))
    return _Side(name, campaign, campaign.round_files(name.round), record)


def _rows(left: dict[str, str], right: dict[str, str]) -> list[Row]:
    return [Row(what, left.get(what, NOTHING), right.get(what, NOTHING)) for what in dict.fromkeys([*left, *right])]


def _measures(side: _Side) -> dict[str, str]:
    record, evaluated = side.record, side.files.evaluated
    spread = None if evaluated is None else Interval.model_validate(evaluated["kl_to_start_interval"])
    measures = {
        "gate": "promoted" if record.promoted else "refused",
        "reasons": "\n".join(record.reasons),
        "champion then": model_name(side.campaign.champion_before(record.round)),
        "wins vs champion": estimate(record.win_rate_vs_champion, 3),
        "wins vs start": estimate(record.win_rate_vs_start, 3),
        "KL to the start": decimal(record.kl_to_start, 2) if spread is None else estimate(spread, 2),
        "reward": decimal(record.mean_reward, 3),
        "tokens": decimal(record.mean_tokens, 1),
        "distinct-2": decimal(record.distinct_2, 4),
        "equal samples": decimal(record.equal_samples, 3),
        "pairs": count(record.num_pairs),
    }
    measures |= {f"time: {stage_name(stage)}": duration(seconds) for stage, seconds in record.seconds.items()}
    return measures | {"time: all": duration(sum(record.seconds.values()))}


def _digests(left: _Side, right: _Side) -> tuple[Row, ...]:
    return tuple(_rows(_digests_of(left), _digests_of(right)))


def _digests_of(side: _Side) -> dict[str, str]:
    start, manifest = start_of_round(side.campaign.directory, side.record.round)
    trained = side.files.trained
    digests = {"policy": side.record.policy_digest}
    if trained is not None:
        digests["trained from"] = trained["start_digest"]
    digests["reference"] = side.record.reference_digest
    for what, place in {
        "prompts": ("generate_responses", "prompts.parquet"),
        "preferences": ("collect_preferences", "preferences.parquet"),
        "train pairs": ("validate_data", "train.parquet"),
        "eval pairs": ("validate_data", "eval.parquet"),
    }.items():
        sha256 = side.files.file_digest(*place)
        if sha256 is not None:
            digests[what] = sha256
    if start is not None and manifest is not None:
        digests["start model"] = start["model"]["digest"]
        digests["training prompts"] = manifest.files["train_prompts.parquet"].sha256
        digests["held-out prompts"] = manifest.files["held_out_prompts.parquet"].sha256
        digests |= {"judge": start["judge"]["digest"], "evaluation judge": start["evaluation_judge"]["digest"]}
    return digests


def _warnings(digests: tuple[Row, ...], left: _Side, right: _Side) -> list[str]:
    differ = {row.what for row in digests if row.left != row.right}
    reasons = {
        "held-out prompts": "the held-out prompts differ",
        "evaluation judge": "the evaluation judges differ",
        "start model": "the start models differ",
    }
    found = [reason for what, reason in reasons.items() if what in differ]
    if _law(left) != _law(right):
        found.append("the responses were sampled by different laws (evaluation, policy.max_response_tokens)")
    return [f"win rates and rewards cannot be compared: {reason}" for reason in found]


def _law(side: _Side) -> tuple[float, ...]:
    """Return how the compared responses of a round were sampled; configurations of earlier versions lack some keys."""
    config = config_of_round(side.campaign.directory, side.record.round)
    evaluation = EvaluationConfig().model_dump() | config["evaluation"]
    return (*(evaluation[key] for key in ("temperature", "top_p", "top_k")), config["policy"]["max_response_tokens"])


def _measured(side: _Side) -> Measured:
    champion = side.campaign.champion_before(side.record.round)
    digests = {record.round: record.policy_digest for record in side.campaign.finished}
    start = (side.campaign.start or {}).get("model", {}).get("digest", "")
    config = config_of_round(side.campaign.directory, side.record.round)
    return Measured(
        name=str(side.name),
        policy_digest=side.record.policy_digest,
        champion_digest=digests[champion] if champion else start,
        champion_name=model_name(champion),
        vs_champion=side.record.win_rate_vs_champion,
        vs_start=side.record.win_rate_vs_start,
        confidence=config["evaluation"]["confidence"],
    )


def _config_changes(left: _Side, right: _Side) -> list[str]:
    """Return the differences between the configurations under which the rounds ran."""
    configs = (config_of_round(side.campaign.directory, side.record.round) for side in (left, right))
    ignored = {"campaign", *FREE_TO_CHANGE}
    left_config, right_config = (
        {key: value for key, value in config.items() if key not in ignored} for config in configs
    )
    return differences(left_config, right_config)


def _shared_samples(left: _Side, right: _Side) -> list[SharedSample]:
    """Return a few prompts of which both rounds recorded answers, those with different answers first."""
    challengers = [{sample.prompt: sample.answers[-1] for sample in read_samples(side.files)} for side in (left, right)]
    shared = [
        SharedSample(prompt, answer, challengers[1][prompt])
        for prompt, answer in challengers[0].items()
        if prompt in challengers[1]
    ]
    return sorted(shared, key=lambda sample: sample.left.text == sample.right.text)[:NUM_SAMPLES]


def _page(left: _Side, right: _Side) -> str | None:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    recorded = [side.files.tracking for side in (left, right)]
    if not uri.startswith(("http://", "https://")) or None in recorded:
        return None
    from components.tracking import compare_rounds_url  # loads mlflow, which takes seconds

    return compare_rounds_url(
        uri, [(entry["experiment_id"], entry["run_id"]) for entry in recorded if entry is not None]
    )
