"""Inputs that change on disk under a campaign: a start says what changed, and takes nothing up without a word."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.artifacts import read_json, write_table
from components.campaign.files import read_manifest
from components.campaign.known_digests import KnownDigests
from components.campaign.state import Champion, State, keep_start, round_directory, start_directory, write_state
from components.config import CampaignConfig
from components.data.messages import format_messages
from components.records import StageFailed
from components.runtime.launch import run_stage
from components.start.pins import CheckedStart, check_start
from flows.requests import start_request
from tests.campaign.test_campaign import record

JUDGE = "def score(prompts, completions, **kwargs):\n    return [1.0 for _ in completions]\n"


class Begun:
    """A campaign whose round 0 is published, on files that a test changes."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.directory = place, place / "runs" / "begun"
        self.model = place / "model"
        shutil.copytree(model, self.model)
        (place / "judge.py").write_text(JUDGE)
        self.write("train", [f"train {number}" for number in range(40)])
        self.write("held", [f"held {number}" for number in range(8)])
        self.sections: dict[str, Any] = {"prompts": {"train": self.file("train"), "held_out": self.file("held")}}

    def file(self, name: str) -> str:
        return str(self.place / f"{name}.jsonl")

    def write(self, name: str, prompts: list[str]) -> None:
        Path(self.file(name)).write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))

    @property
    def config(self) -> CampaignConfig:
        policy = {"model": str(self.model), "dtype": "float32", "max_response_tokens": 8}
        judge = {"kind": "python", "function": f"{self.place}/judge.py:score"}
        values = {"campaign": "begun", "policy": policy, "judge": judge, "evaluation": {"start_prompts": 0}}
        return CampaignConfig.model_validate(values | self.sections)

    def check(self, *, accept: bool = False, known: KnownDigests | None = None) -> CheckedStart:
        return check_start(self.directory, self.config, accept_changes=accept, known=known)

    def pin(self, *, accept: bool = False) -> dict[str, Any]:
        checked = self.check(accept=accept)
        request = start_request(checked.config, checked.inputs.prompts_digest, checked.pins)
        run_stage("start", request, round_directory(self.directory, 0), anew=bool(checked.accepted))
        return read_json(start_directory(self.directory) / "start.json")

    def finish_round(self, prompts: list[str]) -> None:
        """Record a round that trained on these prompts."""
        stage = round_directory(self.directory, 1) / "validate_data"
        stage.mkdir(parents=True)
        rows = [format_messages([{"role": "user", "content": prompt}]) for prompt in prompts]
        write_table(stage / "train.parquet", pd.DataFrame({"prompt": rows}))
        write_state(
            self.directory,
            State(campaign="begun", champion=Champion(round=0, digest="0"), rounds=(record(1, promoted=False),)),
        )

    def held_out(self) -> set[str]:
        table = pd.read_parquet(start_directory(self.directory) / "held_out_prompts.parquet")
        return {json.loads(messages)[-1]["content"] for messages in table["messages"]}


@pytest.fixture
def begun(tmp_path: Path, starter_directory: Path) -> Begun:
    return Begun(tmp_path, starter_directory)


def refused(begun: Begun, *, accept: bool = False) -> str:
    with pytest.raises(ValueError, match="the inputs of campaign begun are not what round 0 pinned") as error:
        begun.check(accept=accept)
    assert "\n" not in str(error.value)
    return str(error.value)


def change_weights(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    first = next(iter(weights.values()))
    first += torch.ones_like(first) * 1e-3
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def test_start_whose_inputs_are_as_they_were_changes_nothing(begun: Begun) -> None:
    begun.pin()
    published = (start_directory(begun.directory) / "MANIFEST.json").read_bytes()
    assert begun.check().accepted == []
    begun.pin()
    assert (start_directory(begun.directory) / "MANIFEST.json").read_bytes() == published


def test_prompts_that_were_appended_stop_the_start_and_replace_no_held_out_prompt(begun: Begun) -> None:
    """They used to: the lowest content keys of the longer file were held out, so former held-out prompts were drawn."""
    begun.sections = {"prompts": {"train": begun.file("train"), "held_out": "", "num_held_out": 12}}
    begun.pin()
    held_out = begun.held_out()
    begun.write("train", [f"train {number}" for number in range(100)])
    assert f"(training prompts {begun.file('train')}: 60 added): restore them, choose another" in refused(begun)
    assert begun.check(accept=True).accepted == [f"training prompts {begun.file('train')}: 60 added"]
    begun.pin(accept=True)
    assert begun.held_out() == held_out
    assert len(pd.read_parquet(start_directory(begun.directory) / "train_prompts.parquet")) == 100 - 12
    assert begun.check().accepted == []


def test_prompts_in_another_order_are_the_same(begun: Begun) -> None:
    begun.pin()
    begun.write("train", [f"train {number}" for number in reversed(range(40))])
    assert begun.check().accepted == []


def test_held_out_prompts_that_a_round_trained_on_are_never_accepted(begun: Begun) -> None:
    begun.pin()
    begun.finish_round(["train 1", "train 2", "other"])
    begun.write("held", [*(f"held {number}" for number in range(6)), "Train  1", "new"])
    told = refused(begun, accept=True)
    assert f"held-out prompts {begun.file('held')}: 2 added, 2 removed" in told
    assert "finished rounds trained on 1 of the new held-out prompts: restore them, or choose another campaign" in told
    begun.write("held", [*(f"held {number}" for number in range(6)), "newer", "new"])
    assert "--accept-changes" in refused(begun)
    assert begun.check(accept=True).accepted == [f"held-out prompts {begun.file('held')}: 2 added, 2 removed"]


def test_start_weights_that_were_changed_in_place_stop_the_start(begun: Begun) -> None:
    begun.pin()
    known = KnownDigests(begun.place / "known.json")
    assert begun.check(known=known).accepted == []
    known.keep()
    status = (begun.model / "model.safetensors").stat()
    change_weights(begun.model)
    # The same size and time: a copy with `cp -p` or a careful attacker.
    os.utime(begun.model / "model.safetensors", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match=rf"start model {begun.model}: other weights.*--accept-changes"):
        begun.check(known=KnownDigests(begun.place / "known.json"))
    begun.finish_round(["train 1"])
    assert "finished rounds stand on the start model: restore" in refused(begun, accept=True)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json", "config.json"])
def test_file_beside_the_start_weights_that_changes_is_named(name: str, begun: Begun) -> None:
    """A new chat template on disk was read by every later stage: other prompts under the same digests."""
    begun.pin()
    with (begun.model / name).open("a") as file:
        file.write("\n ")
    assert f"start model {begun.model}: another {name}" in refused(begun)


def test_judge_whose_file_changes_is_named_and_pinned_anew_if_accepted(begun: Begun) -> None:
    before = begun.pin()
    (begun.place / "judge.py").write_text(JUDGE.replace("1.0", "2.0"))
    assert f"judge python:{begun.place}/judge.py:score: another content" in refused(begun)
    after = begun.pin(accept=True)
    assert after["judge"]["digest"] != before["judge"]["digest"]
    assert begun.check().accepted == []


def test_seed_pairs_and_constraint_that_change_are_named(begun: Begun) -> None:
    pairs = begun.place / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    (begun.place / "rule.py").write_text(JUDGE)
    begun.sections |= {
        "preferences": {"seed_pairs": str(pairs)},
        "constraints": {"function": f"{begun.place}/rule.py:score"},
    }
    begun.pin()
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "c", "rejected": "b"}) + "\n")
    (begun.place / "rule.py").write_text(JUDGE.replace("1.0", "0.0"))
    told = refused(begun)
    assert f"seed pairs {pairs}: another content" in told
    assert f"function {begun.place}/rule.py:score: another content" in told


def test_regression_tasks_that_change_are_named_and_can_be_accepted(begun: Begun) -> None:
    def write(answer: str) -> None:
        rows = [{"id": place, "prompt": "Hi", "check": {"kind": "exact", "answer": answer}} for place in range(80)]
        Path(begun.file("suite")).write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    write("hello")
    begun.sections |= {"regression": {"tasks": [begun.file("suite")]}}
    before = begun.pin()["regression_digest"]
    assert begun.check().accepted == []
    write("good day")
    assert f"regression tasks {begun.file('suite')}: another content" in refused(begun)
    assert begun.pin(accept=True)["regression_digest"] != before


def test_regression_prompts_that_the_model_cannot_read_stop_round_0(begun: Begun) -> None:
    row = {"prompt": "word " * 700, "check": {"kind": "exact", "answer": "yes"}}
    rows = [row | {"id": place} for place in range(80)]
    Path(begun.file("suite")).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    begun.sections |= {"regression": {"tasks": [begun.file("suite")]}}
    with pytest.raises(
        StageFailed, match=r"regression task suite, item 0: the prompt has .* tokens, more than policy\.max"
    ):
        begun.pin()


def test_start_model_of_another_name_with_other_weights_is_refused_once_a_round_stands_on_it(begun: Begun) -> None:
    begun.pin()
    begun.finish_round(["train 1"])
    for name in ("same", "other"):
        shutil.copytree(begun.model, begun.place / name)
    begun.model = begun.place / "same"
    begun.pin(accept=True)
    begun.model = begun.place / "other"
    change_weights(begun.model)
    with pytest.raises(StageFailed, match="other has other weights than the one that the finished rounds stand on"):
        begun.pin(accept=True)
    assert read_json(start_directory(begun.directory) / "start.json")["model"]["base"] == str(begun.place / "same")


def test_round_0_that_is_replaced_stays_for_the_rounds_that_ran_with_it(begun: Begun) -> None:
    begun.pin()
    begun.finish_round(["train 1"])
    manifest = read_manifest(start_directory(begun.directory))
    begun.write("train", [f"train {number}" for number in range(50)])
    keep_start(begun.directory, 1)
    begun.pin(accept=True)
    assert (
        read_manifest(start_directory(begun.directory, 1))
        == manifest
        != read_manifest(start_directory(begun.directory, 2))
    )
    assert start_directory(begun.directory, 2) == start_directory(begun.directory)


@pytest.fixture
def hub(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put the start model on the hub, as its cache has it; the function moves `main` to another commit."""
    repository = begun.place / "hub" / "models--people--starter"

    def move(commit: str) -> Path:
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(begun.model, repository / "snapshots" / commit)
        return repository / "snapshots" / commit

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(begun.place / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return move


def test_model_of_the_hub_stays_at_the_commit_with_which_the_campaign_began(
    begun: Begun, hub: Callable[[str], Path]
) -> None:
    """`main` was recorded as the revision: the same campaign would load whatever it points to that day."""
    first = hub("1" * 40)
    begun.sections |= {"policy": {"model": "people/starter", "dtype": "float32", "max_response_tokens": 8}}
    pinned = begun.pin()
    assert (pinned["model"]["revision"], pinned["model"]["base"]) == ("1" * 40, str(first))
    change_weights(begun.model)
    hub("2" * 40)
    checked = begun.check()
    assert checked.config.policy.revision == "1" * 40
    assert begun.pin() == pinned
    assert begun.config.policy.revision == "main"
