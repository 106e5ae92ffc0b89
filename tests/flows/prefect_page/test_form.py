"""The form of the Prefect page: its fields, and the configuration that a filled one stands for."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from components.config import CampaignConfig, load_config
from flows.prefect_page.form import Form, Group, What, chosen_config, preset_path


def test_form_left_alone_is_the_preset_itself() -> None:
    for preset in get_args(What.model_fields["preset"].annotation):
        form = Form.model_validate({"what": {"preset": preset}})
        assert chosen_config(form) == load_config(preset_path(preset))


def test_form_presets_are_all_the_shipped_campaigns() -> None:
    shipped = {
        path.stem
        for path in preset_path("demo").parent.glob("*.yaml")
        if "campaign" in yaml.safe_load(path.read_text())
    }
    assert shipped == set(get_args(What.model_fields["preset"].annotation))


def test_form_every_field_changes_the_value_that_it_names() -> None:
    filled = {
        "what": {"campaign": "mine", "num_rounds": 7},
        "model": {"model": "some/model", "lora_rank": 0},
        "data": {
            "train_prompts": "a.jsonl",
            "held_out_prompts": "b.jsonl",
            "prompts_per_round": 11,
            "seed_pairs": "c.jsonl",
        },
        "judge": {
            "kind": "reward_model",
            "model": "some/judge",
            "endpoint_url": "http://127.0.0.1:1/v1",
            "endpoint_model": "chat",
            "api_key_from": "prefect:judge-key",
        },
        "training": {"learning_rate": 0.5, "beta": 0.7, "epochs": 3, "micro_batch_pairs": 2},
        "budget": {"max_round_minutes": 5, "max_round_cost": 2},
        "other": ["budget.cost_per_hour=1.5", "training.gradient_checkpointing=true", "prompts.column=question"],
    }
    before = load_config(preset_path("qwen-ultrafeedback"))
    config = chosen_config(Form.model_validate(filled | {"what": filled["what"] | {"preset": "qwen-ultrafeedback"}}))
    changed = {
        ("campaign",): "mine",
        ("num_rounds",): 7,
        ("policy", "model"): "some/model",
        ("lora", "rank"): 0,
        ("prompts", "train"): str(Path.cwd() / "a.jsonl"),
        ("prompts", "held_out"): str(Path.cwd() / "b.jsonl"),
        ("prompts", "per_round"): 11,
        ("prompts", "column"): "question",
        ("preferences", "seed_pairs"): str(Path.cwd() / "c.jsonl"),
        ("judge", "model"): "some/judge",
        ("training", "learning_rate"): 0.5,
        ("training", "beta"): 0.7,
        ("training", "epochs"): 3,
        ("training", "micro_batch_pairs"): 2,
        ("training", "gradient_checkpointing"): True,
        ("budget", "max_round_minutes"): 5,
        ("budget", "max_round_cost"): 2,
        ("budget", "cost_per_hour"): 1.5,
    }
    expected = before.model_dump()
    for (*sections, key), value in changed.items():
        (expected[sections[0]] if sections else expected)[key] = value
    expected["judge"]["endpoint"] |= {
        "url": "http://127.0.0.1:1/v1",
        "model": "chat",
        "api_key_from": "prefect:judge-key",
    }
    expected["evaluation_judge"] = expected["judge"]
    assert config == CampaignConfig.model_validate(expected)


@pytest.mark.parametrize(
    ("filled", "message"),
    [
        ({"other": ["epochs"]}, "other value 'epochs' is not a setting: write it as section.key=value"),
        ({"other": ["training.epochs=[1"]}, "other value 'training.epochs=[1' is not valid: its right side must be"),
        ({"other": ["training.epochs=few"]}, 'training.epochs = "few"'),
        ({"other": ["training.epoch=3"]}, "unknown key training.epoch; did you mean epochs?"),
        ({"other": ["seed=1", "seed.x=2"]}, "other value seed.x: seed is a value, not a section"),
        ({"what": {"config_file": "/no/such.yaml"}}, "config file /no/such.yaml does not exist"),
        ({"judge": {"kind": "reward_model"}}, "kind reward_model needs a model"),
        ({"judge": {"kind": "llm", "endpoint_model": "chat"}}, "kind llm needs a chat endpoint"),
        ({"budget": {"max_round_cost": 3}}, "set `cost_per_hour`"),
    ],
)
def test_form_value_that_cannot_be_used_is_told_in_one_line(filled: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        chosen_config(Form.model_validate(filled))
    assert "\n" not in str(told.value)


def test_form_campaign_that_is_no_name_is_refused_by_the_schema() -> None:
    with pytest.raises(ValidationError):
        Form.model_validate({"what": {"campaign": "../up"}})


def test_form_fields_all_say_their_place_and_meaning() -> None:
    groups = [
        field.annotation
        for field in Form.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group)
    ]
    assert len(groups) == 6
    for group in groups:
        properties = group.model_json_schema()["properties"]
        assert [field["position"] for field in properties.values()] == list(range(len(properties)))
        assert all(field["description"].endswith(".") for field in properties.values()), group


def test_form_config_file_takes_the_place_of_the_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("campaign: mine\ntraining: {epochs: 4, beta: 0.3}\n")
    config = chosen_config(
        Form.model_validate({"what": {"config_file": str(tmp_path / "mine.yaml")}, "training": {"epochs": 2}})
    )
    assert (config.campaign, config.training.epochs, config.training.beta) == ("mine", 2, 0.3)
