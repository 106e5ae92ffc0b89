from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import StudyConfig, load_config, load_study
from components.config.shipped import conf_path

BASE: dict[str, Any] = {
    "campaign": "base",
    "prompts": {"per_round": 100},
    "judge": {"kind": "rule", "rule": "support_reply"},
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        values = {"study": "mine", "base": "base.yaml", "arms": {"loop": {}}} | changes
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


def test_study_that_ships_is_read() -> None:
    config = load_study(conf_path("studies/methods.yaml"))
    assert config.baseline == "iterative-dpo"
    assert config.base == str(conf_path("demo.yaml"))
    assert StudyConfig.model_validate(config.model_dump()) == config


def test_study_arm_changes_the_base_and_nothing_else(write: Any, tmp_path: Path) -> None:
    config = load_study(write(arms={"loop": {}, "ipo": {"change": {"training": {"loss": "ipo"}}}}, rounds=2))
    campaign = config.campaign("ipo", 3)
    assert (campaign.campaign, campaign.seed, campaign.num_rounds) == ("mine.ipo.seed-3", 3, 2)
    base = load_config(tmp_path / "base.yaml")
    assert campaign.training == base.training.model_copy(update={"loss": "ipo"})
    same = {"campaign": "base", "seed": base.seed, "num_rounds": base.num_rounds, "training": base.training}
    assert campaign.model_copy(update=same) == base


def test_study_change_of_every_arm_gives_way_to_the_arms_own(write: Any) -> None:
    common = {"training": {"loss": "ipo", "beta": 0.3}, "prompts": {"per_round": 10}}
    arms = {"loop": {}, "hinge": {"method": "offline", "change": {"training": {"loss": "hinge"}}}}
    config = load_study(write(change=common, arms=arms, rounds=2))
    loop, hinge = config.campaign("loop", 1), config.campaign("hinge", 1)
    assert (loop.training.loss, loop.training.beta, loop.prompts.per_round) == ("ipo", 0.3, 10)
    assert (hinge.training.loss, hinge.training.beta, hinge.prompts.per_round) == ("hinge", 0.3, 20)


def test_study_offline_arm_has_the_prompts_of_all_rounds_in_one(write: Any) -> None:
    arms = {"loop": {}, "offline": {"method": "offline", "change": {"training": {"beta": 0.3}}}}
    campaign = load_study(write(arms=arms, rounds=3)).campaign("offline", 1)
    assert (campaign.num_rounds, campaign.prompts.per_round, campaign.training.beta) == (1, 300, 0.3)


def test_study_paths_of_an_arm_mean_beside_the_file(write: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}\n')
    config = load_study(write(arms={"mine": {"change": {"prompts": {"train": "prompts.jsonl"}}}}))
    assert config.campaign("mine", 1).prompts.train == str(tmp_path / "prompts.jsonl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms"),
        ({"arms": {"a/b": {}}}, "'a/b' is not a valid name"),
        ({"study": "a.b"}, "is not a valid name: use 1 to 24"),
        ({"seeds": [1, 1]}, "1 is named twice"),
        ({"arms": {"x": {"num_samples": 8}}}, "num_samples has no effect with method rounds"),
        (
            {"arms": {"x": {"change": {"training": {"los": "ipo"}}}}},
            "arm x: .*key training.los; did you mean loss",
        ),
        ({"arm": {}}, "unknown key arm; did you mean arms"),
        ({"arms": {"x": {"change": {"seed": 3}}}}, "seed is set by `seeds`: leave it out"),
        ({"change": {"num_rounds": 3}}, "num_rounds is set by `rounds`: leave it out"),
        (
            {"arms": {"x": {}, "y": {"change": {"evaluation": {"temperature": 0.5}}}}},
            "arm y: evaluation differs, so that what it reaches could not be compared",
        ),
        (
            {"arms": {"x": {}, "y": {"change": {"judge": {"kind": "reward_model", "model": "./rm"}}}}},
            "arm y: evaluation_judge differs, so that what it reaches could not be compared",
        ),
        ({"base": "other.yaml"}, r"arm loop: config file .*other\.yaml does not exist"),
    ],
)
def test_study_that_is_wrong_is_refused_in_one_line(write: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        load_study(write(**changes))
    assert "\n" not in str(refused.value)
