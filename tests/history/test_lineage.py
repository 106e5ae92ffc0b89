import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.artifacts import file_digest, read_json, write_json
from components.campaign import known_digests
from components.campaign.known_digests import KnownDigests
from components.history.cleanup import collect_garbage
from components.history.lineage import Lineage, check_published, read_lineage
from components.history.names import parse_version
from components.history.tree import Node, walk
from flows.cli import app

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

GIT_SHA = "0123456789abcdef0123456789abcdef01234567"


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["lineage", *arguments])


def traced(name: str) -> Lineage:
    return read_lineage(parse_version(name))


def child(node: Node, *path: str) -> Node:
    for what in path:
        node = next(each for each in node.children if each.what == what)
    return node


def test_lineage_goes_through_each_parent_to_the_start_and_past_no_refused_round(tracked: Any) -> None:
    found = traced("demo/4")
    assert [model.what for model in found.models] == ["round 4", "round 3", "round 1", "the start model"]
    assert [model.digest for model in found.models] == [tracked.policy_digest(round) for round in (4, 3, 1, 0)]
    assert [child(model, "trained from").note for model in found.models[:-1]] == [
        "round 3",
        "round 1",
        "the start model",
    ]
    assert [child(model, "trained from").digest for model in found.models[:-1]] == [
        model.digest for model in found.models[1:]
    ]
    assert found.damaged == []


def test_lineage_names_every_parent_by_the_digest_of_its_file(tracked: Any) -> None:
    model, start = traced("demo/3").models[0], traced("demo/3").models[-1]
    pairs = child(model, "train pairs")
    chain = {
        ("train pairs",): tracked.stage(3, "validate_data") / "train.parquet",
        ("train pairs", "preferences"): tracked.stage(3, "collect_preferences") / "preferences.parquet",
        ("train pairs", "preferences", "verdicts"): tracked.stage(3, "collect_preferences") / "verdicts.parquet",
        ("train pairs", "preferences", "verdicts", "responses"): tracked.stage(3, "generate_responses")
        / "responses.parquet",
        ("evaluation",): tracked.stage(3, "evaluate") / "evaluation.json",
    }
    for place, path in chain.items():
        assert child(model, *place).digest == file_digest(path), place
        assert tracked.directory / str(child(model, *place).path) == path
    prompts = child(pairs, "preferences", "verdicts", "responses", "this round's prompts")
    assert prompts.digest == file_digest(tracked.stage(3, "generate_responses") / "prompts.parquet")
    assert child(prompts, "drawn from the train prompts").digest == child(start, "train prompts").digest
    assert child(pairs, "preferences", "verdicts", "judge").note == "rule support_reply"
    assert child(model, "git sha").digest == GIT_SHA
    assert len(str(child(model, "config").digest)) == 64


@pytest.mark.parametrize(
    ("name", "round"), [("demo@champion", 3), ("demo@challenger", 4), ("models:/demo@champion", 3), ("demo/2", 2)]
)
def test_lineage_aliases_lead_to_their_versions(tracked: Any, name: str, round: int) -> None:
    assert traced(name).version == f"demo/{round}"
    assert traced(name).models[0].digest == tracked.policy_digest(round)


def test_lineage_version_is_not_the_round_when_mlflow_counts_otherwise(demo: Any, store: Path) -> None:
    for round in (3, 1):
        demo.track(round)
    assert traced("demo/1").models[0].what == "round 3"


def test_lineage_of_a_refused_reference_follows_it_too(demo: Any, store: Path) -> None:
    demo.round(5, reference=4)
    demo.track(5)
    found = traced("demo/1")
    assert child(found.models[0], "reference").note == "round 4"
    assert child(found.models[0], "trained from").note == "round 3"
    assert [model.what for model in found.models] == ["round 5", "round 4", "round 3", "round 1", "the start model"]


def checked(demo: Any, *, accept: bool = False) -> list[str]:
    known = KnownDigests(demo.directory / ".digests.json")
    try:
        return check_published(demo.directory, accept_changes=accept, known=known)
    finally:
        known.keep()


def test_start_checks_the_files_behind_the_champion_and_reads_each_of_them_once(
    demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `ratchet lineage` noticed a file that was no longer what was published, and nobody asked it."""
    read: list[Path] = []

    def counting(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(known_digests, "file_digest", counting)
    assert checked(demo) == []
    assert demo.stage(3, "dpo_train") / "model" / "model.safetensors" in read
    read.clear()
    assert checked(demo) == []
    assert read == []
    samples = demo.stage(1, "evaluate") / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"published files of campaign demo have changed \(round-001/evaluate/samples"):
        checked(demo)
    assert checked(demo, accept=True) == ["published files have changed: round-001/evaluate/samples.parquet"]
    assert read == [samples]
    samples.unlink()
    assert checked(demo) == ["published files are gone: round-001/evaluate/samples.parquet"]
    weights = demo.stage(3, "dpo_train") / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"model.safetensors.*: restore them$"):
        checked(demo, accept=True)


def test_lineage_marks_what_changed_or_is_gone_wherever_it_lies(tracked: Any) -> None:
    def flip(path: Path) -> str:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return str(path.relative_to(tracked.directory))

    changed = [
        flip(tracked.stage(3, "dpo_train") / "model" / "model.safetensors"),
        flip(tracked.stage(1, "collect_preferences") / "verdicts.parquet"),
        flip(tracked.stage(1, "evaluate") / "samples.parquet"),
        flip(tracked.stage(0, "start") / "model" / "model.safetensors"),
    ]
    gone = tracked.stage(1, "generate_responses") / "prompts.parquet"
    gone.unlink()
    flip(tracked.stage(2, "dpo_train") / "model" / "model.safetensors")  # no ancestor
    found = traced("demo/3")
    assert sorted(found.damaged) == sorted([*changed, "round-001/generate_responses/prompts.parquet"])
    by_path = {node.path: node.condition for node in walk(found.models)}
    assert {by_path[path] for path in changed} == {"changed"}
    assert by_path["round-001/generate_responses/prompts.parquet"] == "gone"
    assert by_path["round-003/dpo_train/model"] == "changed"
    told = invoke("demo/3")
    assert told.exit_code == 0
    assert told.output.count("CHANGED since it was published") == 6  # each folder of weights as well as the file in it
    assert "5 files are not what was published" in told.output


def test_lineage_training_record_that_was_changed_is_no_witness(tracked: Any) -> None:
    path = tracked.stage(3, "dpo_train") / "train.json"
    write_json(
        path, read_json(path) | {"start_digest": tracked.policy_digest(2), "reference_digest": tracked.policy_digest(2)}
    )
    found = traced("demo/3")
    assert [model.what for model in found.models] == ["round 3", "round 1", "the start model"]
    assert child(found.models[0], "trained from").digest is None
    assert found.damaged == ["round-003/dpo_train/train.json"]


def test_lineage_stage_that_is_gone_is_told_not_hidden(tracked: Any) -> None:
    shutil.rmtree(tracked.stage(3, "collect_preferences"))
    shutil.rmtree(tracked.stage(1, "dpo_train") / "model")
    found = traced("demo/3")
    assert child(found.models[0], "train pairs", "preferences").condition == "gone"
    assert "round-003/collect_preferences/preferences.parquet" in found.damaged
    assert child(found.models[1], "weights").condition == "gone"


def test_lineage_collected_weights_are_no_damage(demo: Any, store: Path) -> None:
    demo.track(2)
    collect_garbage(demo.directory, keep=1, dry_run=False)
    found = traced("demo/1")
    weights = child(found.models[0], "weights")
    assert weights.condition == "collected"
    assert "to free disk" in str(weights.note)
    assert found.damaged == []
    told = invoke("demo/1")
    assert "collected" in told.output
    assert "every file is what was published" in told.output


def test_lineage_json_holds_whole_digests_and_the_damage(tracked: Any) -> None:
    (tracked.stage(3, "validate_data") / "train.parquet").unlink()
    told = invoke("demo/3", "--json")
    assert told.exit_code == 0
    content = json.loads(told.stdout)
    assert (content["version"], content["campaign"], content["aliases"]) == ("demo/3", "demo", ["champion"])
    assert content["models"][0]["digest"] == tracked.policy_digest(3)
    assert content["damaged"] == ["round-003/validate_data/train.parquet"]


def test_lineage_start_model_outside_the_campaign_is_checked_by_its_tensors(
    demo: Any, store: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    from components.models.loading import start_ref

    base = tmp_path / "elsewhere"
    base.mkdir()
    save_file(
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}, base / "model.safetensors"
    )
    path = demo.stage(0, "start") / "start.json"
    model = start_ref(base, revision="main").model_dump(mode="json") | {"digest": demo.start_digest}
    write_json(path, read_json(path) | {"model": model})
    demo.track(1)
    assert child(traced("demo/1").models[-1], "weights").condition == "intact"
    weights = base / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert child(traced("demo/1").models[-1], "weights").condition == "changed"
    shutil.rmtree(base)
    assert str(base) in traced("demo/1").damaged


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("demo/9", "model version demo/9 does not exist in MLflow: demo has 1, 2, 3, 4, @champion, @challenger"),
        ("demo@best", "model version demo@best does not exist in MLflow"),
        ("nope/1", "model version nope/1 does not exist in MLflow: nope has none"),
        ("demo", "demo is not a model version"),
    ],
)
def test_lineage_of_an_unknown_version_is_refused_in_one_line(tracked: Any, name: str, said: str) -> None:
    told = invoke(name)
    assert told.exit_code == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1


def test_lineage_of_a_version_of_an_earlier_campaign_of_that_name_is_refused(tracked: Any) -> None:
    state = tracked.state
    others = tuple(record.model_copy(update={"policy_digest": "other"}) for record in state.rounds)
    write_json(tracked.directory / "campaign.json", state.model_copy(update={"rounds": others}))
    told = invoke("demo/1")
    assert told.exit_code == 2
    assert "an earlier campaign with this name trained it" in told.stderr


def test_lineage_while_mlflow_is_down_says_so_in_one_line(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    told = invoke("demo/1")
    assert told.exit_code == 1
    assert "MLflow at http://127.0.0.1:9 failed" in told.stderr
    assert told.stderr.count("\n") == 1
