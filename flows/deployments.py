"""The flows that `conf/prefect.yaml` deploys: what a schedule or a person on the Prefect page starts."""

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from pydantic import Field

from components.campaign.lock import CampaignBusy
from components.campaign.state import campaign_directory, known_campaigns, known_state
from components.history.cleanup import Collected, collect_garbage
from flows.iterative_dpo import add_rounds, rounds_name
from flows.prefect_page.deployed import refuse_runs_that_vanish
from flows.prefect_page.form import Budget, Data, Form, Judge, Model, Training, What, chosen_config
from tasks.show_campaign import show_campaign

UNCHANGED = Form()
CAMPAIGN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ANY_OR_ONE = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$"


def _run_name() -> str:
    form = Form.model_validate(flow_run.parameters)
    try:
        return rounds_name(chosen_config(form), form.what.until or None)
    except ValueError:  # the run itself reports it
        return form.what.campaign or Path(form.what.config_file).stem or form.what.preset


@flow(name="iterative-dpo", flow_run_name=_run_name)
def campaign(
    what: What = UNCHANGED.what,
    model: Model = UNCHANGED.model,
    data: Data = UNCHANGED.data,
    judge: Judge = UNCHANGED.judge,
    training: Training = UNCHANGED.training,
    budget: Budget = UNCHANGED.budget,
    other: list[str] = UNCHANGED.other,
) -> Any:
    """Add rounds to a campaign, or finish what an earlier start left open.

    Args:
        what: Which campaign, and how far.
        model: The model that is being aligned.
        data: Prompts and pairs.
        judge: Who decides which response is better.
        training: Direct Preference Optimization.
        budget: Limits of a round. A round that reaches one stops; the campaign's next start continues it.
        other: Any further values, each as section.key=value, such as training.zero_stage=2.
    """
    form = Form(what=what, model=model, data=data, judge=judge, training=training, budget=budget, other=other)
    return add_rounds(
        chosen_config(form),
        accept_changes=what.accept_changes,
        until=what.until or None,
        accept_audit=what.accept_audit,
    )


@flow(name="report", flow_run_name="{campaign}-report")
def report(campaign: Annotated[str, Field(description="Name of the campaign.", pattern=CAMPAIGN_NAME)] = "demo") -> str:
    """Write a campaign's report again, and show its rounds as an artifact."""
    refuse_runs_that_vanish()
    return str(show_campaign(campaign_directory(campaign), known_state(campaign)))


@flow(name="gc", flow_run_name="gc")
def gc(
    campaign: Annotated[
        str, Field(description="Name of the campaign; empty takes all campaigns.", pattern=ANY_OR_ONE)
    ] = "",
    keep: Annotated[int, Field(description="Latest rounds of each campaign whose weights stay in any case.", ge=1)] = 2,
    dry_run: Annotated[bool, Field(description="List what would be removed, and remove nothing.")] = False,
) -> int:
    """Remove weights that no later round, rollback or champion needs.

    A campaign that is running is skipped.

    Returns:
        The bytes freed, as far as they could be measured.
    """
    refuse_runs_that_vanish()
    if campaign:
        known_state(campaign)
    collected: list[Collected] = []
    for name in [campaign] if campaign else known_campaigns():
        try:
            collected += collect_garbage(campaign_directory(name), keep=keep, dry_run=dry_run)
        except (CampaignBusy, PermissionError) as error:
            get_run_logger().warning("skipped: %s", error)
    num_bytes = sum(item.num_bytes for item in collected if item.num_bytes is not None)
    rows = [item.model_dump(mode="json") for item in collected]
    create_table_artifact(rows, key="gc", description=f"What {'would go' if dry_run else 'went'}: {num_bytes:,} bytes.")
    return num_bytes
