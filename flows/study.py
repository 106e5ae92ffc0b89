"""A study: run the campaign of each arm and seed, one after the other, and report after each. Computes nothing."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from components.campaign.config import config_changes, with_former_defaults
from components.campaign.lock import locked
from components.campaign.state import campaign_directory
from components.config import StudyConfig
from components.study.files import STUDIES, Failure, Results, study_directory, write_results
from components.study.outcomes import Outcome
from components.study.report import write_report
from components.study.summary import summarize
from flows.whole_campaign import FAILURES, run_until
from tasks.record_outcome import record_outcome


def _run_name() -> str:
    return f"study-{flow_run.parameters['config'].study}"


@flow(name="study", flow_run_name=_run_name)
def study(config: StudyConfig) -> dict[str, Any]:
    """Run every arm with every seed, or what an earlier start left of them.

    An arm that fails is told in the report, and the others go on.

    Args:
        config: The study.

    Returns:
        The results, as in study.json.

    Raises:
        ValueError: An arm's campaign began with another configuration.
        CampaignBusy: Another process runs the study.
    """
    directory = study_directory(config.study)
    _refuse_changes(config)
    with locked(directory, flow_run=str(flow_run.id)):
        outcomes, failures = [], []
        results = Results(config=config, outcomes=(), arms=(), failures=())
        for seed in config.seeds:  # seed by seed, so that a study that is stopped early has compared all arms
            for arm in config.arms:
                try:
                    outcome = _run_arm(config, arm, seed)
                except FAILURES as error:
                    get_run_logger().error("arm %s, seed %d: %s", arm, seed, error)
                    failures.append(Failure(arm=arm, seed=seed, reason=str(error)))
                else:
                    outcomes.append(outcome)
                arms = summarize(outcomes, arms=tuple(config.arms), confidence=config.confidence)
                results = Results(config=config, outcomes=tuple(outcomes), arms=arms, failures=tuple(failures))
                write_results(directory, results)
                write_report(directory, results)
    return results.model_dump(mode="json")


def _refuse_changes(config: StudyConfig) -> None:
    """Refuse a study whose finished campaigns had another configuration: their results would pass for the new one's."""
    for arm in config.arms:
        for seed in config.seeds:
            campaign = config.campaign(arm, seed)
            directory = campaign_directory(campaign.campaign)
            changed = config_changes(directory, with_former_defaults(directory, campaign))
            if changed:
                raise ValueError(
                    f"arm {arm}: its campaign {campaign.campaign} began with another config ({'; '.join(changed)}): "
                    f"undo the change, give the arm or the study another name, or delete {directory}"
                )


def _run_arm(config: StudyConfig, arm: str, seed: int) -> Outcome:
    """Run the campaign of an arm and a seed, record it and return what it reached."""
    campaign = config.campaign(arm, seed)
    number = list(config.arms).index(arm) + len(config.arms) * list(config.seeds).index(seed) + 1
    outcome = run_until(
        campaign,
        until=campaign.num_rounds,
        arm=arm,
        place=f"campaign {number} of {len(config.arms) * len(config.seeds)}",
        tag=f"study:{config.study}",
    )
    settings = {key: str(value) for key, value in config.arms[arm].settings.items()}
    params = {"arm": arm, "seed": str(seed), "base": config.base} | settings
    record_outcome(f"{STUDIES}/{config.study}", f"{arm}, seed {seed}", outcome, params)
    return outcome
