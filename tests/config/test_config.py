import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from components.checks.registry import CHECKS
from components.config import (
    HARD_LABEL_LOSSES,
    MARGIN_LOSSES,
    RESPONSE_LOSSES,
    UNSMOOTHED_LOSSES,
    CampaignConfig,
    ChecksConfig,
    LossName,
    TrainingConfig,
    differences,
    load_config,
    read_settings,
)
from components.config.training import WITHOUT_REFERENCE

ROOT = Path(__file__).parents[2]
CONSTITUTION = "{kind: constitution, endpoint: {url: http://127.0.0.1:8000/v1, model: m}}"
SELF_TAUGHT = "campaign: a\nevaluation_judge: {kind: rule}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "campaign.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "path", sorted(set((ROOT / "conf").glob("*.yaml")) - {ROOT / "conf" / "prefect.yaml"}), ids=lambda path: path.name
)
def test_config_every_shipped_file_loads_without_doubts(path: Path) -> None:
    assert not load_config(path).training.doubts


def test_config_off_of_yaml_is_the_word(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "campaign: a\npreferences: {feedback: {use: off, noise: 0.1}}"))
    assert config.preferences.feedback.use == "off"
    assert not config.preferences.gives_soft_labels


@pytest.mark.parametrize(("round", "samples"), [(1, False), (2, True)])
def test_config_round_samples_unless_its_data_come_from_outside(round: int, samples: bool, tmp_path: Path) -> None:
    seeded = load_config(written(tmp_path, "campaign: a\npreferences: {seed_pairs: hub/name}")).preferences
    assert seeded.samples_in(round) is samples
    only = load_config(written(tmp_path, "campaign: a\npreferences: {feedback: {use: only}}")).preferences
    assert not only.samples_in(round)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("campaign: a\ntraining: {bta: 1}", r"unknown key training\.bta; did you mean beta\?"),
        ("campaign: a\nzzz: 1", r"unknown key zzz; known here: campaign, seed"),
        ("campaign: a\ntraining: {beta: -1}", r"training\.beta = -1: Input should be greater than 0"),
        (
            "campaign: a\ntraining: {loss: kto, label_smoothing: 0.1}",
            r"label_smoothing has no effect on kto: leave it out",
        ),
        ("campaign: a\ntraining: {loss: exo_pair}", r"set `label_smoothing`, such as 0.001"),
        (
            "campaign: a\ntraining: {loss: kto, divergence: js}",
            r"divergence js needs losses of the margin, and kto is not one",
        ),
        ("campaign: a\ntraining: {added_losses: {bco_pair: 1}}", r"make it `loss` and add the other one"),
        (
            "campaign: a\ntraining: {added_losses: {sigmoid: 1}}",
            r"added_losses names sigmoid, which `loss` has already",
        ),
        (
            "campaign: a\ntraining: {added_losses: {sft: 0}}",
            r"training\.added_losses\.sft = 0: Input should be greater than 0",
        ),
        (
            "campaign: a\ntraining: {loss: aot}\npreferences: {soft_labels: bradley_terry}",
            r"training.loss aot takes hard labels only",
        ),
        (
            "campaign: a\ntraining: {loss: aot}\npreferences: {feedback: {use: only, noise: 0.2}}",
            r"training.loss aot takes hard labels only.*no `feedback.noise`",
        ),
        (
            "campaign: a\npreferences: {feedback: {use: sometimes}}",
            r"preferences\.feedback\.use = .sometimes.: Input should be 'off', 'only' or 'with_round'",
        ),
        ("campaign: a\ntraining: {loss: aot}\npreferences: {ties: half}", r"training.loss aot takes hard labels only"),
        (
            "campaign: a\npreferences: {pairs: unpaired}",
            r"needs a loss over single responses, but training.loss is sigmoid: set",
        ),
        (
            "campaign: a\npreferences: {pairs: unpaired, ties: half}\ntraining: {loss: kto}",
            r"pairs unpaired compares no responses",
        ),
        (
            "campaign: a\ntraining: {loss: dpo}",
            r"training\.loss = \"dpo\": Input should be 'sigmoid', 'sigmoid_norm', 'ipo'",
        ),
        ("campaign: a/b", r"campaign = \"a/b\": is not a valid name"),
        ("campaign: ..", r"is not a valid name"),
        ("campaign: .services", r"is not a valid name"),
        ("campaign: mlflow.db", r"campaign = \"mlflow.db\": is the name of something else beside the campaigns'"),
        ("campaign: mlflow.db-wal", r"is the name of something else"),
        ("campaign: mlartifacts", r"is the name of something else"),
        ("campaign: bench", r"is the name of something else"),
        ("campaign: e2e", r"is the name of something else"),
        ("seed: 3", r"campaign is missing: add it"),
        ("campaign: a\njudge: {kind: reward_model}", r"judge: kind reward_model needs a model"),
        (
            "campaign: a\njudge: {kind: self}",
            r"evaluation_judge would be self, and a policy must not grade its own promotion: set `evaluation_judge` "
            r"to another",
        ),
        (
            "campaign: a\nevaluation_judge: {kind: implicit_reward}",
            r"evaluation_judge would be implicit_reward, and a policy must not",
        ),
        ("campaign: a\njudge: {kind: jury, jurors: [{kind: rule}, {kind: self}]}", r"evaluation_judge would be self"),
        (
            f"{SELF_TAUGHT}judge: {{kind: implicit_reward}}",
            r"judge.kind implicit_reward cannot judge before a round is promoted",
        ),
        (
            f"{SELF_TAUGHT}judge: {{kind: self}}\nsoft_prompt: {{kind: prefix}}",
            r"campaign.yaml: judge.kind self serves the policy, and no server supports",
        ),
        (
            f"{SELF_TAUGHT}judge: {{kind: self, endpoint: {{model: m}}}}",
            r"kind self serves the policy itself: leave",
        ),
        (
            "campaign: a\npreferences: {pairs: revised}",
            r"pairs revised needs the model of a constitution: set `judge: ",
        ),
        (
            f"campaign: a\njudge: {CONSTITUTION}\npreferences: {{pairs: revised}}\nactive: {{budget: 9}}",
            r"active.judge compares two responses of the policy, but preferences.pairs is revised: leave `active` out",
        ),
        ("campaign: a\npreferences: {pairs: revised, ties: half}", r"pairs revised has no margins and no ties: leave"),
        (
            "campaign: a\njudge: {kind: jury, jurors: [{kind: rule, wieght: 1}, {kind: rule}]}",
            r"unknown key judge.jurors.0.wieght; did you mean weight\?",
        ),
        ("[1, 2]", r"is not a mapping"),
        ("campaign: [", r"is not valid YAML"),
    ],
)
def test_config_wrong_input_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "campaign.yaml" in str(caught.value)


def test_config_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


def test_config_evaluation_judge_left_out_is_the_judge(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "campaign: a\njudge: {kind: reward_model, model: some/model}"))
    assert config.evaluation_judge == config.judge


def test_config_overrides_win_over_the_file(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "campaign: a\nnum_rounds: 2"), {"num_rounds": 5}).num_rounds == 5


def test_config_resolved_json_loads_back_equal(tmp_path: Path) -> None:
    config = load_config(ROOT / "conf" / "demo.yaml")
    assert load_config(written(tmp_path, config.model_dump_json())) == config


def test_differences_nested_keys_are_named_with_both_values() -> None:
    assert differences({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}}) == ["b.c: 2 -> 4"]


def sections(model: type[BaseModel], seen: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            seen[field.annotation.__name__] = field.annotation
            sections(field.annotation, seen)
    return seen


def loss_settings() -> set[str]:
    """Fields that reach a loss by the name of the argument that reads them."""
    from components.dpo.losses import DIVERGENCES, LOSSES, with_divergence

    entries = [*LOSSES.values(), *(with_divergence(LOSSES["sigmoid"], name) for name in DIVERGENCES)]
    return {name for entry in entries for name in entry.settings}


def test_config_losses_are_those_of_the_registry() -> None:
    from components.dpo.losses import LOSSES
    from components.dpo.losses import RESPONSE_LOSSES as OF_RESPONSES

    assert set(get_args(LossName)) == set(LOSSES)
    assert {name for name, loss in LOSSES.items() if loss.margin_only} == MARGIN_LOSSES
    assert set(OF_RESPONSES) == RESPONSE_LOSSES
    assert {name for name, loss in LOSSES.items() if not loss.soft_labels} == HARD_LABEL_LOSSES
    assert {name for name, loss in LOSSES.items() if not loss.needs_reference} == WITHOUT_REFERENCE
    assert {name for name, loss in LOSSES.items() if "label_smoothing" not in loss.settings} == UNSMOOTHED_LOSSES
    assert loss_settings() <= TrainingConfig.model_fields.keys()


@pytest.mark.parametrize(
    "section", [CampaignConfig, *sections(CampaignConfig, {}).values()], ids=lambda section: section.__name__
)
def test_config_every_field_is_read_somewhere_and_described(section: type[BaseModel]) -> None:
    sources = [path for folder in ("flows", "tasks", "components") for path in (ROOT / folder).rglob("*.py")]
    sources = [path for path in sources if "components/config" not in path.as_posix()]
    code = "\n".join(path.read_text() for path in sources)
    by_losses = loss_settings() if section is TrainingConfig else set()
    by_checks = {check.name for check in CHECKS} if section is ChecksConfig else set()
    for name, field in section.model_fields.items():
        assert name in by_losses | by_checks or re.search(rf"\.{name}\b", code), (
            f"nothing reads {section.__name__}.{name}"
        )
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert nested or field.description, f"{section.__name__}.{name} has no docstring"


@pytest.mark.parametrize(
    ("loss", "beta"), [("sigmoid", 0.1), ("kto", 0.1), ("simpo", 2.0), ("sigmoid_norm", 5.0), ("ipo_mean", 5.0)]
)
def test_beta_that_is_left_out_is_the_losss_own(loss: str, beta: float) -> None:
    training = TrainingConfig.model_validate({"loss": loss})
    assert training.beta == beta
    assert not training.doubts
    assert TrainingConfig.model_validate({"loss": loss, "beta": 0.3}).beta == 0.3


@pytest.mark.parametrize(
    ("section", "loss"),
    [
        ({"loss": "simpo", "beta": 0.1}, "simpo"),
        ({"beta": 5.0}, "sigmoid"),
        ({"added_losses": {"sigmoid_norm": 0.5, "sft": 0.1}}, "sigmoid_norm"),
    ],
)
def test_beta_far_from_what_a_loss_is_used_with_is_doubted(section: dict[str, Any], loss: str) -> None:
    (doubt,) = TrainingConfig.model_validate(section).doubts
    assert re.search(
        rf"^training.beta = \S+ is far from what {loss} is used with \(\S+ to \S+\): leave `beta` out", doubt
    )


def test_ld_alpha_without_a_reference_is_doubted() -> None:
    (doubt,) = TrainingConfig.model_validate({"loss": "simpo", "ld_alpha": 0.5}).doubts
    assert doubt.startswith("training.ld_alpha = 0.5 has no effect on simpo, which compares nothing with a reference")
    assert not TrainingConfig.model_validate({"loss": "rpo", "ld_alpha": 0.5}).doubts


def test_config_settings_win_over_the_file_key_by_key(tmp_path: Path) -> None:
    path = written(tmp_path, "campaign: a\nlora: {rank: 8, alpha: 4}\nprompts: {train: a.jsonl}")
    settings = ["lora.rank=16", "training.learning_rate=2e-5", "prompts.train=b=c.jsonl", "lora.rank=32"]
    config = load_config(path, read_settings([*settings, "evaluation_judge={kind: reward_model, model: ./r}"]))
    assert (config.lora.rank, config.lora.alpha) == (32, 4)
    assert config.training.learning_rate == 2e-5
    assert config.prompts.train == str(Path.cwd() / "b=c.jsonl")
    assert (config.judge.kind, config.evaluation_judge.model) == ("rule", str(Path.cwd() / "r"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lora.rank", r"--set lora\.rank is not a setting: write key=value, such as policy\.model=\./my-model"),
        ("=16", r"--set =16 is not a setting"),
        ("lora..rank=16", r"--set lora\.\.rank=16 is not a setting"),
        ("lora={rank", r"--set lora=\{rank is not valid YAML"),
        ("lora.rnk=16", r"unknown key lora\.rnk; did you mean rank\?"),
        ("lora.rank=many", r'lora\.rank = "many": Input should be a valid integer'),
        ("lora=16", r"lora = 16: "),
    ],
)
def test_config_setting_that_is_wrong_is_named(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(written(tmp_path, "campaign: a"), read_settings([setting]))


def test_config_off_is_the_word_and_not_yamls_false(tmp_path: Path) -> None:
    text = "campaign: a\nvalidation: {data_checks: off}\nchecks: {secrets: {on_breach: off}}\n"
    config = load_config(written(tmp_path, text))
    assert (config.validation.data_checks, config.checks.secrets.on_breach) == ("off", "off")


def test_config_limit_keeps_the_other_defaults_of_its_own_check(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "campaign: a\nchecks: {personal_data: {max_share: 0.5}}\n"))
    assert config.checks.personal_data.model_dump() == {"max_share": 0.5, "on_breach": "warn", "quarantine": False}
