"""Task: record what a campaign of a study or a sweep reached in MLflow. Nothing that trains depends on it."""

import logging
from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

from components.artifacts import digest
from components.campaign.state import runs_directory
from components.study.outcomes import Outcome
from tasks.record_round import UNRECORDED

TAKEN = ("generated_tokens", "verdicts", "seconds", "peak_memory_bytes")
"""What an arm took, as metrics."""
# Records of this logger reach the terminal, the log file and the page of the run.
log = logging.getLogger("components.tracking")


@task(name="record_outcome", cache_policy=NO_CACHE)
def record_outcome(experiment: str, run_name: str, outcome: Outcome, params: Mapping[str, str]) -> State | None:
    """Record an outcome as a run of an experiment, unless it is there; a later start tries again.

    Args:
        experiment: Name of the experiment.
        run_name: Name of the run.
        outcome: What the campaign reached.
        params: What tells the run from the others.

    Returns:
        None, or a state named NotRecorded that says why.
    """
    from components.tracking import TrackingUnavailable
    from components.tracking import record_outcome as track

    try:
        track(
            runs_directory(),
            experiment=experiment,
            run_name=run_name,
            digest=digest(outcome.model_dump(exclude={"seconds", "peak_memory_bytes"})),
            params=params,
            by_round={point.round: point.model_dump(exclude={"round"}) for point in outcome.points},
            final=outcome.final.model_dump(exclude={"round", "promoted"})
            | {name: getattr(outcome, name) for name in TAKEN},
        )
    except TrackingUnavailable as error:
        log.warning("MLflow does not have %s of %s: %s", run_name, experiment, error)
        return Completed(name=UNRECORDED, message=str(error))
    return None
