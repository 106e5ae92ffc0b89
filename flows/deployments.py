"""The flows that `conf/prefect.yaml` deploys: what a schedule or a person on the Prefect page starts."""

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_link_artifact
from pydantic import Field

from components.campaign import campaign_directory, known_state
from components.report.campaign import write_report
from flows.form import Budget, Data, Form, Judge, Model, Training, What, chosen_config
from flows.iterative_dpo import add_rounds, run_name
from tasks.record_round import artifact_key

UNCHANGED = Form()
OtherValues = Annotated[list[str], Field(description="Any further values, each as section.key=value, such as training.zero_stage=2.")]
CAMPAIGN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@flow(name="iterative-dpo", flow_run_name=run_name)
def campaign(
    what: What = UNCHANGED.what,
    model: Model = UNCHANGED.model,
    data: Data = UNCHANGED.data,
    judge: Judge = UNCHANGED.judge,
    training: Training = UNCHANGED.training,
    budget: Budget = UNCHANGED.budget,
    other: OtherValues = UNCHANGED.other,
) -> Any:
    """Adds rounds to a campaign, or finishes what an earlier start left open."""
    form = Form(what=what, model=model, data=data, judge=judge, training=training, budget=budget, other=other)
    return add_rounds(chosen_config(form), accept_changes=what.accept_changes)


@flow(name="report", flow_run_name="{campaign}-report")
def report(campaign: Annotated[str, Field(description="Name of the campaign.", pattern=CAMPAIGN_NAME)] = "demo") -> str:
    """Writes a campaign's report again."""
    known_state(campaign)
    path = write_report(campaign_directory(campaign))
    create_link_artifact(path.as_uri(), link_text=str(path), key=artifact_key(campaign, "report"), description=f"The report of {campaign}")
    return str(path)


@flow(name="gc", flow_run_name="gc")
def gc(
    campaign: Annotated[str, Field(description="Name of the campaign; empty looks at all of them.")] = "",
    keep: Annotated[int, Field(description="Newest rounds of each campaign whose weights stay in any case.", ge=1)] = 2,
    dry_run: Annotated[bool, Field(description="Only say what would go.")] = False,
) -> None:
    """Frees the disk of weights that no round, rollback or champion needs."""
