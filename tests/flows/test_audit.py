"""A campaign whose gate let a worse model through, and the audit that finds it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from components.artifacts import read_json, read_table, write_table
from components.campaign.state import known_state
from components.config import CampaignConfig
from components.evaluation.held_out import audit_ids
from components.history.rollback import roll_back
from components.promotion.gate import Decision
from components.records import ChampionDoubted
from flows.cli import app

pytestmark = pytest.mark.usefixtures("prefect_session")
SETTINGS: dict[str, Any] = {
    "training": {"learning_rate": 2e-3, "epochs": 4, "pairs_per_step": 8, "micro_batch_pairs": 8},
    "gate": {"max_unfinished_increase": 1.0, "audit_every": 2},
}


def start(config: CampaignConfig, **options: Any) -> dict[str, Any]:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, **options)


@pytest.fixture
def worse_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on swapped pairs, and promote whatever comes of it unless the audit speaks against it."""
    from components.promotion import stage as promotion
    from components.validation import stage as validation

    whole, decide = validation.run, promotion.decide

    def flipped(request: Any, out: Path) -> None:
        whole(request, out)
        table = pd.read_parquet(out / "train.parquet")
        swapped = {"chosen_ids": "rejected_ids", "rejected_ids": "chosen_ids"}
        write_table(out / "train.parquet", table.rename(columns=swapped)[table.columns])

    def lenient(evaluation: Any, *limits: Any) -> Decision:
        audit = evaluation["audit"]
        return decide(evaluation, *limits) if audit and audit["contradictions"] else Decision(True, ("for the test",))

    monkeypatch.setattr(validation, "run", flipped)
    monkeypatch.setattr(promotion, "decide", lenient)


@pytest.mark.usefixtures("worse_champion")
def test_audit_that_contradicts_the_gate_holds_the_campaign_until_a_user_acts(
    runs: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    with pytest.raises(ChampionDoubted, match=r"campaign small is held: the audit of round 2 .*--accept-audit"):
        start(make_config(num_rounds=3, **SETTINGS))
    state = known_state("small")
    assert (state.last_round, state.target, state.champion.round) == (2, 3, 1)
    audit = state.rounds[1].audit
    assert audit is not None
    assert (audit.champion, audit.earlier, audit.win_rate_vs_earlier) == (1, 0, None)
    assert audit.win_rate_vs_start.high < 0.5
    assert state.rounds[1].reasons[-1] == f"audit: {audit.contradictions[0]}"
    assert (runs / "small" / "report.html").exists()

    gate_prompts = set(read_table(runs / "small/round-002/evaluate/samples.parquet")["prompt_id"])
    pool = list(read_table(runs / "small/round-000/start/held_out_prompts.parquet")["prompt_id"])
    assert not gate_prompts & set(audit_ids(pool, share=0.2, seed=17))
    assert audit.win_rate_vs_start.n == 48

    assert "is held: the audit of round 2" in CliRunner().invoke(app, ["status", "small"]).output
    with pytest.raises(ChampionDoubted):
        start(make_config(num_rounds=3, **SETTINGS))
    assert known_state("small").last_round == 2
    accepted = start(make_config(num_rounds=3, **SETTINGS), accept_audit=True)
    assert [record["round"] for record in accepted["rounds"]] == [1, 2, 3]
    assert accepted["accepted_audits"] == [2]
    assert accepted["target"] is None


@pytest.mark.usefixtures("worse_champion")
def test_audit_of_a_champion_that_a_user_replaced_holds_nothing(
    runs: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    with pytest.raises(ChampionDoubted):
        start(make_config(num_rounds=2, **SETTINGS))
    roll_back(runs / "small", 0)
    assert start(make_config(num_rounds=2, **SETTINGS))["target"] is None


def test_audit_of_a_start_model_or_in_other_rounds_is_not_made(
    runs: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    gate = SETTINGS["gate"] | {"audit_every": 1}
    record = start(make_config(gate=gate))["rounds"][0]
    assert "audit" not in record
    assert read_json(runs / "small/round-001/evaluate/evaluation.json")["audit"] is None
