"""A relative path in a YAML file means beside the file, from whichever directory a command or a worker reads it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.artifacts import write_json
from components.campaign.config import CONFIG, refuse_changes, with_former_defaults
from components.config import CampaignConfig, load_config, read_settings
from flows.prefect_page.form import Form, What, chosen_config


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a user's files; the current directory is another one, as a worker's is."""
    place, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    for directory in (place, elsewhere):
        directory.mkdir()
    (place / "model").mkdir()
    for name in ("train.jsonl", "held.jsonl", "pairs.jsonl", "rewards.py", "rules.yaml", "question.txt"):
        (place / name).write_text("")
    monkeypatch.chdir(elsewhere)
    return place


def written(place: Path, **values: Any) -> Path:
    path = place / "campaign.yaml"
    path.write_text(yaml.safe_dump({"campaign": "mine", **values}))
    return path


def test_relative_paths_of_every_kind_are_beside_the_file(place: Path) -> None:
    path = written(
        place,
        policy={"model": "./model"},
        prompts={"train": "train.jsonl", "held_out": "../mine/held.jsonl"},
        preferences={"seed_pairs": "./pairs.jsonl"},
        judge={
            "kind": "jury",
            "jurors": [
                {"kind": "python", "functions": [{"function": "./rewards.py:score"}]},
                {"kind": "python", "function": "json.decoder:scanstring"},
                {
                    "kind": "constitution",
                    "principles": "./rules.yaml",
                    "endpoint": {"url": "http://a/v1", "model": "m"},
                },
                {"kind": "llm", "prompt": "question.txt", "endpoint": {"url": "http://a/v1", "model": "./m"}},
            ],
        },
        evaluation_judge={"kind": "reward_model", "model": "runs/rm/reward_model"},
        constraints={"function": "rewards.py:rule"},
        regression={"tasks": ["copying", "held.jsonl", "lm-eval:mine"], "harness_tasks": "./model"},
    )
    for config in (load_config(path), chosen_config(Form(what=What(config_file=str(path))))):
        assert config.policy.model == f"{place}/model"
        assert (config.prompts.train, config.prompts.held_out) == (f"{place}/train.jsonl", f"{place}/held.jsonl")
        assert config.preferences.seed_pairs == f"{place}/pairs.jsonl"
        jurors = config.judge.jurors
        assert jurors[0].functions[0].function == f"{place}/rewards.py:score"
        assert jurors[1].function == "json.decoder:scanstring"
        assert jurors[2].principles == f"{place}/rules.yaml"
        assert jurors[3].prompt == f"{place}/question.txt"
        assert jurors[3].endpoint.model == "./m", "the name of a model at an endpoint is not a path"
        assert config.evaluation_judge.model == f"{place}/runs/rm/reward_model"
        assert config.constraints.function == f"{place}/rewards.py:rule"
        assert config.regression.tasks == ("copying", f"{place}/held.jsonl", "lm-eval:mine")
        assert config.regression.harness_tasks == f"{place}/model"


def test_names_of_the_hub_and_of_ours_stay(place: Path) -> None:
    (place / "helpful").mkdir()
    config = load_config(
        written(
            place,
            policy={"model": "Qwen/Qwen2.5-0.5B-Instruct"},
            prompts={"train": "squad", "held_out": ""},
            judge={"kind": "constitution", "endpoint": {"url": "http://a/v1", "model": "m"}, "principles": "helpful"},
        )
    )
    assert (config.policy.model, config.prompts.train) == ("Qwen/Qwen2.5-0.5B-Instruct", "squad")
    assert config.judge.principles == "helpful"


def test_set_is_relative_to_the_current_directory(place: Path) -> None:
    (place.parent / "elsewhere" / "model").mkdir()
    config = load_config(written(place), read_settings(["policy.model=./model", "prompts={train: p.jsonl}"]))
    assert config.policy.model == f"{place.parent}/elsewhere/model"
    assert config.prompts.train == f"{place.parent}/elsewhere/p.jsonl"


def test_mistyped_path_is_not_taken_for_a_name_of_the_hub(place: Path) -> None:
    """`models/mine` was fetched from whoever owns the name `models` on the hub."""
    (place / "models").mkdir()
    with pytest.raises(ValueError, match=rf"policy.model = models/mime is either the path {place}/models/mime, which"):
        load_config(written(place, policy={"model": "models/mime"}))


def test_path_that_only_the_current_directory_has_is_taken_and_told(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = place.parent / "elsewhere" / "mine.jsonl"
    here.write_text("")
    path = written(place, prompts={"train": "./mine.jsonl", "held_out": ""})
    assert load_config(path).prompts.train == str(here)
    assert f"prompts.train = ./mine.jsonl is {here}, since {place}/mine.jsonl does not exist" in caplog.text


def test_path_that_both_directories_have_is_beside_the_file_and_told(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = place.parent / "elsewhere" / "train.jsonl"
    here.write_text("")
    config = load_config(written(place, prompts={"train": "./train.jsonl", "held_out": ""}))
    assert config.prompts.train == f"{place}/train.jsonl"
    assert f"prompts.train = ./train.jsonl is {place}/train.jsonl, beside its file, and not {here}" in caplog.text


def test_campaign_that_began_with_a_relative_path_keeps_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An absolute path would change the config and the key of every stage of the open round."""
    directory = place.parent / "runs" / "mine"
    directory.mkdir(parents=True)
    sections = {
        "policy": {"model": "./model"},
        "prompts": {"train": "./train.jsonl", "held_out": "./held.jsonl"},
        "judge": {"kind": "jury", "jurors": [{}, {"kind": "python", "function": "./rewards.py:score"}]},
    }
    former = CampaignConfig.model_validate({"campaign": "mine", **sections})
    write_json(directory / CONFIG, former.model_dump(mode="json"))
    path = written(place, **sections)
    monkeypatch.chdir(place)
    continued = with_former_defaults(directory, load_config(path))
    assert continued == former
    refuse_changes(directory, continued)
    monkeypatch.chdir(place.parent)
    with pytest.raises(ValueError, match=rf'policy.model: "./model" -> "{place}/model"'):
        refuse_changes(directory, with_former_defaults(directory, load_config(path)))
