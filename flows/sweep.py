"""A sweep: ask for a trial, run its campaign, tell what it reached; then confirm the winner. Computes nothing."""

from collections.abc import Mapping
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from components.campaign.config import config_changes, with_former_defaults
from components.campaign.lock import locked
from components.campaign.state import campaign_directory
from components.config import SweepConfig, at, differences
from components.study.files import Results as StudyResults
from components.study.outcomes import Outcome
from components.sweep.files import (
    SWEEPS,
    SweepResults,
    Value,
    read_results,
    sweep_directory,
    write_results,
    write_winner,
)
from components.sweep.held_out import halve_held_out
from components.sweep.report import verdict, write_report
from components.sweep.search import Asked, Search
from flows.study import study
from flows.whole_campaign import FAILURES, may_pass, run_until
from tasks.record_outcome import record_outcome

FREE_TO_CHANGE = {"trials", "confirm_seeds", "confidence"}
"""Keys of a sweep that may change before it goes on."""


def _run_name() -> str:
    return f"sweep-{flow_run.parameters['config'].sweep}"


@flow(name="sweep", flow_run_name=_run_name)
def sweep(config: SweepConfig) -> dict[str, Any]:
    """Search for the values of a few keys, or go on with the search, and confirm the winner on unseen prompts.

    A trial that fails is told in the report, and the search goes on.

    Args:
        config: The sweep.

    Returns:
        The results, as in sweep.json.

    Raises:
        ValueError: The prompts cannot be read, or the sweep began with another configuration.
        CampaignBusy: Another process runs the sweep.
    """
    directory = sweep_directory(config.sweep)
    with locked(directory, flow_run=str(flow_run.id)):
        base = config.trial(0, {}, {})
        searched, confirmed = halve_held_out(directory, base)
        default: dict[str, Value] = {key: at(base, key) for key in config.parameters}
        confirmation = _refuse_changes(config, searched, default)
        search = Search(directory, config, default=default)
        results = _write(config, search, default, confirmation)
        while (asked := search.ask()) is not None:
            _run_trial(config, search, asked, searched)
            results = _write(config, search, default, None)
        best = results.best
        if best is None:
            raise ValueError(
                f"all trials of {config.sweep} failed; the last one: {results.trials[-1].reason}; correct "
                "the base configuration, and give the sweep another name"
            )
        if best.values != default:
            confirmation = StudyResults.model_validate(study(config.confirmation(best.values, confirmed)))
            results = _write(config, search, default, confirmation)
        winner = config.trial(best.number, best.values, {})
        named = winner.model_copy(update={"campaign": f"{config.sweep}-winner"})
        write_winner(directory, named, about=f"Sweep {config.sweep}: {verdict(results)}")
    return results.model_dump(mode="json")


def _refuse_changes(
    config: SweepConfig, prompts: Mapping[str, Any], default: Mapping[str, Value]
) -> StudyResults | None:
    """Refuse to go on with another search: what the trials reached would not be comparable.

    Returns:
        The confirmation of an earlier start; None if there was none.

    Raises:
        ValueError: A key of the sweep, or the base configuration, differs from what the first trials had.
    """
    directory = sweep_directory(config.sweep)
    before = read_results(directory)
    if before is None:
        return None
    old, new = (each.model_dump(mode="json", exclude=FREE_TO_CHANGE) for each in (before.config, config))
    changed = differences(old, new) + differences(before.default, default)
    for trial in before.trials[:1]:
        campaign = config.trial(trial.number, trial.values, prompts)
        there = campaign_directory(campaign.campaign)
        changed += config_changes(there, with_former_defaults(there, campaign))
    if changed:
        raise ValueError(
            f"sweep {config.sweep} began with another config ({'; '.join(changed)}): undo the change, or give it "
            "another name"
        )
    return before.confirmation


def _write(
    config: SweepConfig, search: Search, default: dict[str, Value], confirmation: StudyResults | None
) -> SweepResults:
    directory = sweep_directory(config.sweep)
    results = SweepResults(
        config=config,
        default=default,
        trials=search.trials,
        importances=search.importances,
        confirmation=confirmation,
    )
    write_results(directory, results)
    write_report(directory, results)
    return results


def _run_trial(config: SweepConfig, search: Search, asked: Asked, prompts: Mapping[str, Any]) -> None:
    """Run a trial's campaign round by round, until it has all of them, fails, or is hopeless."""
    name = f"trial {asked.number}"
    try:
        campaign = config.trial(asked.number, asked.values, prompts)
        for round in range(1, config.rounds + 1):
            outcome = run_until(
                campaign,
                until=round,
                arm=name,
                place=f"trial {asked.number + 1} of {config.trials}",
                tag=f"sweep:{config.sweep}",
            )
            value = _reached(config, outcome)
            if search.is_hopeless(asked.number, round=round, value=value) and round < config.rounds:
                search.prune(asked.number)
                break
        else:
            search.finish(asked.number, value)
    except FAILURES as error:
        if may_pass(error):
            raise  # the trial stays open, and the next start goes on with it
        get_run_logger().error("%s: %s", name, error)
        search.fail(asked.number, str(error))
        return
    params = {key: str(value) for key, value in asked.values.items()}
    record_outcome(f"{SWEEPS}/{config.sweep}", name, outcome, params | {"base": config.base})


def _reached(config: SweepConfig, outcome: Outcome) -> float:
    """Return what a trial's champion reached.

    Raises:
        ValueError: The objective is the reward, and the judge gives none.
    """
    value = outcome.final.win_rate if config.objective == "win_rate" else outcome.final.reward
    if value is None:
        raise ValueError("objective is reward, and this judge gives no scores: set `objective: win_rate`")
    return value
