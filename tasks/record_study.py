"""Task: record an arm and a seed of a study in MLflow. Nothing that trains depends on it."""

import logging

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from components.artifacts import digest
from components.campaign.state import runs_directory
from components.config import StudyConfig
from components.study.outcomes import Outcome
from tasks.record_round import UNRECORDED

TAKEN = ("generated_tokens", "verdicts", "seconds", "peak_memory_bytes")
"""What an arm took, as metrics."""
# Records of this logger reach the terminal, the log file and the page of the run.
log = logging.getLogger("components.tracking")


@task(name="record_study", cache_policy=NO_CACHE)
def record_outcome(config: StudyConfig, outcome: Outcome) -> State | None:
    """Record an outcome as a run of the study's experiment, unless it is there; a later start tries again.

    Returns:
        None, or a state named NotRecorded that says why.
    """
    from components.tracking import TrackingUnavailable, record_arm

    settings = {key: str(value) for key, value in config.arms[outcome.arm].settings.items()}
    try:
        record_arm(
            runs_directory(),
            study=config.study,
            run_name=f"{outcome.arm}, seed {outcome.seed}",
            digest=digest(outcome.model_dump(exclude={"seconds", "peak_memory_bytes"})),
            params={"arm": outcome.arm, "seed": str(outcome.seed), "base": config.base} | settings,
            by_round={point.round: point.model_dump(exclude={"round"}) for point in outcome.points},
            final=outcome.final.model_dump(exclude={"round", "promoted"})
            | {name: getattr(outcome, name) for name in TAKEN},
        )
    except TrackingUnavailable as error:
        log.warning("MLflow does not have arm %s, seed %d: %s", outcome.arm, outcome.seed, error)
        return Completed(name=UNRECORDED, message=str(error))
    return None
