"""One round: generate -> collect -> validate -> train -> evaluate -> promote, read top to bottom. Computes nothing itself."""

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.context import TagsContext
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Cancelled

from components.artifacts import artifact, read_json
from components.campaign.models import model_of_round
from components.campaign.state import finish_round, round_directory
from components.campaign.stopping import RoundLimits
from components.config import CampaignConfig
from components.records import Artifact, JudgedRound, JudgeRef, Manifest, RoundRecord, RoundStopped
from components.runtime import progress
from flows.prefect_page.automations import tell_outcome
from flows.prefect_page.earlier_starts import show_as_suspended
from flows.prefect_page.round_progress import shown_on_page
from flows.prefect_page.suspension import Suspension
from tasks.collect_preferences import collect_preferences
from tasks.dpo_train import dpo_train
from tasks.evaluate import evaluate
from tasks.generate_responses import generate_responses
from tasks.promote import promote
from tasks.record_round import record_round
from tasks.validate_data import validate_data

STOPPED = "Stopped"
OUTCOMES_TABLE = "prompt_outcomes.parquet"


@flow(name="dpo-round", flow_run_name="{directory.name}-round-{round:03d}")
def dpo_round(
    config: CampaignConfig, directory: Path, round: int, champion_round: int, start: Manifest, seed_pairs_digest: str | None
) -> Any:
    """Runs every stage of a round that is not already published, and records its outcome in campaign.json.

    Args:
        config: The campaign's configuration.
        directory: The campaign's directory.
        round: Index of the round, from 1.
        champion_round: Round of the champion that it starts from. Not the whole state: Prefect refuses parameters above 512 KiB.
        start: Manifest of round 0.
        seed_pairs_digest: Content digest of the data set that is round 1's data; None samples round 1 like any other.

    Returns:
        The round's record; a state named Stopped when the stop-file or the budget ended the work on it.
    """
    here = round_directory(directory, round)
    try:
        with (
            # The campaign's tag stays on the round's run. On its tasks it would cost a second a round: before each task Prefect asks its
            # server for a concurrency limit of every tag.
            TagsContext(current_tags=set()),
            shown_on_page(here),
            progress.shown_by(RoundLimits(here, config.budget)),
            progress.shown_by(Suspension()),
        ):
            manifests = _stages(config, directory, round, champion_round, start, seed_pairs_digest)
            record = round_record(here, round, manifests)
            finish_round(directory, record)
            record_round(directory, round)
    except RoundStopped as stopped:
        return Cancelled(name=STOPPED, message=str(stopped))
    except Pause:
        show_as_suspended(UUID(str(flow_run.id)))
        raise
    tell_outcome(directory.name, record)
    return record


def _stages(
    config: CampaignConfig, directory: Path, round: int, champion_round: int, start: Manifest, seed_pairs_digest: str | None
) -> dict[str, Manifest]:
    """The stages in their order; a stage that the round does not need is left out of the result."""
    here, pinned = round_directory(directory, round), round_directory(directory, 0) / "start"
    pins = read_json(pinned / "start.json")
    held_out = artifact(pinned, start, "held_out_prompts.parquet")
    champion = model_of_round(directory, champion_round)
    reference = model_of_round(directory, {"start": 0, "previous": round - 1, "champion": champion.round}[config.reference])
    seeded = round == 1 and seed_pairs_digest is not None

    generated = None
    if not seeded:
        generated = generate_responses(
            here,
            round=round,
            policy=champion,
            limits=config.policy,
            prompts=artifact(pinned, start, "train_prompts.parquet"),
            per_round=config.prompts.per_round,
            solved_rounds=config.prompts.solved_rounds,
            solved_score=config.prompts.solved_score,
            earlier=judged_rounds(directory, round) if config.prompts.solved_rounds else (),
            generation=config.generation,
            campaign_seed=config.seed,
        )
    collected = collect_preferences(
        here,
        round=round,
        responses=_published(here, "generate_responses", generated, "responses.parquet"),
        prompts=_published(here, "generate_responses", generated, "prompts.parquet"),
        seed_pairs_digest=seed_pairs_digest if seeded else None,
        judge=JudgeRef(config=config.judge, digest=pins["judge"]["digest"]),
        policy=champion,
        start=model_of_round(directory, 0),
        limits=config.policy,
        preferences=config.preferences,
        active=config.active,
        active_judge=JudgeRef(config=config.active.judge, digest=pins["active_judge"]["digest"]) if config.active.budget else None,
        campaign_seed=config.seed,
    )
    validated = validate_data(
        here,
        round=round,
        preferences=artifact(here / "collect_preferences", collected, "preferences.parquet"),
        replayed=replayed_pairs(directory, round, config.validation.replay),
        held_out=held_out,
        policy=champion,
        limits=config.policy,
        validation=config.validation,
        takes=config.training.takes,
        campaign_seed=config.seed,
    )
    trained = dpo_train(
        here,
        round=round,
        policy=champion,
        reference=reference,
        train=artifact(here / "validate_data", validated, "train.parquet"),
        eval=artifact(here / "validate_data", validated, "eval.parquet"),
        limits=config.policy,
        lora=config.lora,
        soft_prompt=config.soft_prompt,
        training=config.training,
        constraints=config.constraints,
        campaign_seed=config.seed,
    )
    evaluated = evaluate(
        here,
        round=round,
        challenger=model_of_round(directory, round),
        champion=champion,
        start=model_of_round(directory, 0),
        held_out=held_out,
        training=artifact(here / "dpo_train", trained, "train.json"),
        limits=config.policy,
        num_held_out=config.prompts.num_held_out,
        generation=config.generation,
        judge=JudgeRef(config=config.evaluation_judge, digest=pins["evaluation_judge"]["digest"]),
        evaluation=config.evaluation,
        constraints=config.constraints,
        campaign_seed=config.seed,
    )
    decided = promote(here, evaluation=artifact(here / "evaluate", evaluated, "evaluation.json"), gate=config.gate)

    manifests = {
        "generate_responses": generated,
        "collect_preferences": collected,
        "validate_data": validated,
        "dpo_train": trained,
        "evaluate": evaluated,
        "promote": decided,
    }
    return {name: manifest for name, manifest in manifests.items() if manifest is not None}


def _published(here: Path, stage: str, manifest: Manifest | None, name: str) -> Artifact | None:
    return None if manifest is None else artifact(here / stage, manifest, name)


def judged_rounds(directory: Path, round: int) -> tuple[JudgedRound, ...]:
    """What became of the prompts of the rounds before this one, oldest first; rounds that a data set seeded judged none."""
    stages = {earlier: round_directory(directory, earlier) / "collect_preferences" for earlier in range(1, round)}
    manifests = {earlier: Manifest.model_validate(read_json(stage / "MANIFEST.json")) for earlier, stage in stages.items()}
    return tuple(
        JudgedRound(round=earlier, outcomes=artifact(stages[earlier], manifest, OUTCOMES_TABLE))
        for earlier, manifest in manifests.items()
        if OUTCOMES_TABLE in manifest.files
    )


def replayed_pairs(directory: Path, round: int, count: int) -> tuple[Artifact, ...]:
    """The training pairs of the `count` rounds before this one, oldest first, by the hashes that their manifests recorded."""
    stages = [round_directory(directory, earlier) / "validate_data" for earlier in range(max(1, round - count), round)]
    manifests = [(stage, Manifest.model_validate(read_json(stage / "MANIFEST.json"))) for stage in stages]
    return tuple(artifact(stage, manifest, "train.parquet") for stage, manifest in manifests)


def round_record(here: Path, round: int, manifests: dict[str, Manifest]) -> RoundRecord:
    """Puts a finished round's outcome together from what its stages published."""
    evaluation, decision = read_json(here / "evaluate" / "evaluation.json"), read_json(here / "promote" / "decision.json")
    trained = read_json(here / "dpo_train" / "train.json")
    rewards = evaluation["mean_reward"]
    return RoundRecord(
        round=round,
        promoted=decision["promoted"],
        reasons=tuple(decision["reasons"]),
        num_pairs=trained["num_pairs"],
        win_rate_vs_champion=evaluation["win_rate_vs_champion"],
        win_rate_vs_start=evaluation["win_rate_vs_start"],
        kl_to_start=evaluation["kl_to_start"],
        mean_tokens=evaluation["mean_tokens"]["challenger"],
        mean_reward=None if rewards is None else rewards["challenger"],
        seconds={name: manifest.seconds for name, manifest in manifests.items()},
        policy_digest=trained["policy_digest"],
        reference_digest=trained["reference_digest"],
    )
