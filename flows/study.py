"""A study: run the campaign of each arm and seed, one after the other, and report after each. Computes nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from components.campaign.config import config_changes, with_former_defaults
from components.campaign.lock import locked
from components.campaign.state import campaign_directory, round_directory
from components.config import CampaignConfig, StudyConfig, flat
from components.start.pins import check_start
from components.study.files import STUDIES, Failure, Results, read_results, study_directory, write_results
from components.study.outcomes import Outcome, best_of_n_outcome
from components.study.report import write_report
from components.study.summary import summarize
from flows.requests import Round, start_request
from flows.trained_start import trained_start
from flows.whole_campaign import FAILURES, run_until, running
from tasks.best_of_n import best_of_n
from tasks.record_outcome import record_outcome
from tasks.start_campaign import start_campaign


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
        done, failures = _done_before(directory, config), []
        results = Results(config=config, outcomes=(), arms=(), failures=())
        for seed in config.seeds:  # seed by seed, so that a study that is stopped early has compared all arms
            for arm in config.arms:
                try:
                    done[arm, seed] = outcome = _run_arm(config, arm, seed)
                    _refuse_other_measures(outcome, done.values())
                except FAILURES as error:
                    get_run_logger().error("arm %s, seed %d: %s", arm, seed, error)
                    failures.append(Failure(arm=arm, seed=seed, reason=str(error)))
                    done.pop((arm, seed), None)
                outcomes = tuple(done.values())
                arms = summarize(outcomes, arms=tuple(config.arms), confidence=config.confidence)
                results = Results(config=config, outcomes=outcomes, arms=arms, failures=tuple(failures))
                write_results(directory, results)
                write_report(directory, results)
    return results.model_dump(mode="json")


def _done_before(directory: Path, config: StudyConfig) -> dict[tuple[str, int], Outcome]:
    """Return what an earlier start has reached, so that a start that is stopped early loses nothing of the report."""
    before = read_results(directory)
    known = () if before is None else before.outcomes
    return {(each.arm, each.seed): each for each in known if each.arm in config.arms and each.seed in config.seeds}


def _refuse_other_measures(outcome: Outcome, others: Iterable[Outcome]) -> None:
    """Refuse an outcome that was measured otherwise than those beside it.

    Raises:
        ValueError: A file that the configuration names has another content than when an earlier arm ran.
    """
    for other in others:
        for what, digest in outcome.measured_by.items():
            if other.seed == outcome.seed and other.measured_by.get(what) != digest:
                raise ValueError(
                    f"its {what} is not that of arm {other.arm}, which ran with another content of the same files: "
                    "restore them, or give the study another name"
                )


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
    """Run what an arm and a seed lack, record it and return what it reached."""
    number = list(config.arms).index(arm) + len(config.arms) * list(config.seeds).index(seed) + 1
    place = f"campaign {number} of {len(config.arms) * len(config.seeds)}"
    chosen, campaign = config.arms[arm], config.campaign(arm, seed)
    if chosen.method == "best_of_n":
        outcome = _best_of_n(config, arm, campaign, place)
    else:
        tag = f"study:{config.study}"
        outcome = run_until(campaign, until=campaign.num_rounds, arm=arm, place=place, tag=tag)
    settings = {key: str(value) for key, value in (flat(config.change) | chosen.settings).items()}
    params = {"arm": arm, "seed": str(seed), "base": config.base} | settings
    record_outcome(f"{STUDIES}/{config.study}", f"{arm}, seed {seed}", outcome, params)
    return outcome


def _best_of_n(config: StudyConfig, arm: str, campaign: CampaignConfig, place: str) -> Outcome:
    """Have the judge pick answers of the start model; what it was pinned to lies in the study's directory."""
    directory = study_directory(config.study) / f"{arm}.seed-{campaign.seed}"
    with running(campaign.campaign, place):
        checked = check_start(directory, campaign, accept_changes=False)
        sft, pins = trained_start(directory, checked, accept_changes=False)
        request = start_request(checked.config, checked.inputs.prompts_digest, pins, sft=sft)
        start = start_campaign(directory, request, last_round=0, anew=False)
        round = Round(checked.config, directory, 1, 0, start, None)
        here = round_directory(directory, 1)
        best_of_n(
            here,
            round.best_of_n(config.arms[arm].num_samples),
            num_processes=campaign.generation.num_processes,
        )
    return best_of_n_outcome(here / "best_of_n", arm=arm, seed=campaign.seed)
