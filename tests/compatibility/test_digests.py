"""Digests that version 0.1.0 wrote into campaigns and caches of paid answers.

A word in a template, a field's default or a key's name that changes one of them stops every campaign that has it, or
has its judge asked, and paid, again. Such a change must be meant, and stand under "Re-runs stages" in the CHANGELOG.
"""

from pathlib import Path
from typing import Any

import pytest

from components.artifacts import digest, write_json
from components.campaign.config import CONFIG, pin_config, refuse_changes, with_former_defaults
from components.config import (
    ActiveConfig,
    CampaignConfig,
    ConstraintsConfig,
    EvaluationConfig,
    GateConfig,
    GenerationConfig,
    JudgeConfig,
    LoraConfig,
    PolicyConfig,
    PreferencesConfig,
    PromptsConfig,
    SoftPromptConfig,
    TrainingConfig,
    ValidationConfig,
)
from components.config.section import Section
from components.judges.chat.form import Question, messages_with_form, read_answer, repair_messages
from components.judges.registry import judge_digest

ENDPOINT = {"url": "http://127.0.0.1:9/v1", "model": "m"}
JUDGES: dict[str, tuple[dict[str, Any], str]] = {
    "rule": ({"kind": "rule"}, "bf35cbafac03fd9a2b3e8c1e9dd0fb516b1c885152e88772d9620c6870d35ce5"),
    "llm": (
        {"kind": "llm", "endpoint": ENDPOINT},
        "e63248a190f601efe5a2ccf636cf2a9d9fa438b48b342f98a09b1637a49b46ff",
    ),
    "llm, concise": (
        {"kind": "llm", "endpoint": ENDPOINT, "prompt": "concise"},
        "c98c1196ed7846e51db8ad6984b06397323c3dda13a0e8686de96f81b2f6c90f",
    ),
    "constitution": (
        {"kind": "constitution", "endpoint": ENDPOINT},
        "50b1ee426311a32456aeec2681862a1ea49def7281b056760877f440de9a3fe8",
    ),
    "debate": (
        {"kind": "debate", "endpoint": ENDPOINT},
        "677a5a34049bdff56ac7a0266d4d4725832027ede65d464dcc16b4de3b25023d",
    ),
    "self": ({"kind": "self"}, "b18346397c44a8c8284da8335b521eab02a5c684cce06ac116e8db8d4d1ead4c"),
    "implicit_reward": (
        {"kind": "implicit_reward"},
        "1dab45d5401e07e1e6c3eb43ed77271e5c453a9ff59b60d517c22cbdee5a01fd",
    ),
    "jury": (
        {"kind": "jury", "jurors": [{"kind": "rule"}, {"kind": "llm", "endpoint": ENDPOINT, "weight": 2}]},
        "61d38aaab32ae035ebbcd1b455a3616847b16950eb61b87a0345da9d5d403f0d",
    ),
}
SECTIONS = {
    ActiveConfig: "a6cb4c64f57df72170beab3030838b71fdc7be4ba20a280bb4e9ad6e96b75219",
    ConstraintsConfig: "cf74c3ab559dfdd05221485003f558749077df6735dd07d603d26f5ac0410a5c",
    EvaluationConfig: "98884021b27332829300d05da01a804882fe65014d3a02a77e331b17b75e7510",
    GateConfig: "c8b41eac9e7c6c939bbe4f82723e568df8aab3de8dc1d0068e4423c4feb56f7c",
    GenerationConfig: "047e5bcb0ed597944b11140031ec8586412614a7f188bdadb6b5810eaf874109",
    JudgeConfig: "92a679c8c33e698e135da53192e15817717197fa84ae5dd933231d6196145992",
    LoraConfig: "ffae72434e8430afc051403319f742564f4eb7c62575670724863258ec0d7a69",
    PolicyConfig: "28db0c84959ca0d76c5c9473504bceb0ae222975bd6312d8ca333de6121276b7",
    PreferencesConfig: "e71ccf6cec96ba869c1745abaff8689ab3c37174f35e1f98205e5910b0223d5c",
    PromptsConfig: "7b3b20f008e395042404f1e2109b084b26f5005dec9bc412067670470548697c",
    SoftPromptConfig: "14d98d032f72bcf5667e495bb1f9ccb60a38f385f66b9a403f9259051428fb47",
    TrainingConfig: "21dc5fad3c561b5a440650024573cb08e3e1773c60ea8a061fee4d0f05712e39",
    ValidationConfig: "4ec069db06dd954da7efa44ff2fb851ef4c2bf93135b53dbb77100d23bd308b9",
}
"""Sections of the configuration with their defaults: a field that was added later must not count at its default."""
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "enum": ["A", "B"]}, "s": {"type": "number"}},
    "required": ["a", "s"],
}
REPAIRS = {
    "": "58616cdcfe8743c04b59d075c843b516f817eaf966d934a2868cb1f6b4ff4397",
    "no json": "b507cf8706a7f6490dcc7bf5dd43c3b75bdbad05cc7bfe169f8bf343e3062d23",
    '{"a":"C","s":1}': "53c8fb28b762343805c100e859c47a8593ca32c5bf5f544e8e2c00da88389b27",
    '{"a":"A"}': "56f7545384f9a136f03586c349f6224844b2464df20855a6d5bc4ae9136b9da0",
    '{"a":"A","s":"x"}': "d60caece6c7a8af390348006ebf11063366e150262d224283d41d66466102d45",
    "[1]": "b258a989abb9c0fe76ef73c6e1252837b56a311371b3785c8e3bb22d8de786ff",
}


@pytest.mark.parametrize("section", SECTIONS)
def test_digest_of_a_section_is_that_of_0_1(section: type[Section]) -> None:
    former = getattr(section, "FORMER_DEFAULTS", {})
    assert digest(section(**former)) == SECTIONS[section]


def test_campaign_keeps_the_defaults_with_which_it_began_until_its_configuration_names_others(tmp_path: Path) -> None:
    def config(**training: Any) -> CampaignConfig:
        return CampaignConfig.model_validate({"campaign": "old", "training": training, "lora": {"rank": 8}})

    former = TrainingConfig.FORMER_DEFAULTS
    assert config().training.learning_rate == 1e-4
    assert with_former_defaults(tmp_path, config()) == config()
    pin_config(tmp_path, config(**former), accept_changes=False)
    continued = with_former_defaults(tmp_path, config())
    assert {name: getattr(continued.training, name) for name in former} == former
    refuse_changes(tmp_path, continued)
    with pytest.raises(ValueError, match=r"training\.learning_rate"):
        refuse_changes(tmp_path, with_former_defaults(tmp_path, config(learning_rate=3e-5)))


def test_campaign_of_0_1_keeps_its_gate_though_its_configuration_lacks_the_new_guard(tmp_path: Path) -> None:
    def config(**gate: Any) -> CampaignConfig:
        return CampaignConfig.model_validate({"campaign": "old", "gate": gate})

    pinned = config(**GateConfig.FORMER_DEFAULTS).model_dump(mode="json")
    del pinned["gate"]["max_unfinished_increase"], pinned["gate"]["min_length_ratio"]
    del pinned["evaluation"]["start_prompts"]
    write_json(tmp_path / CONFIG, pinned)
    continued = with_former_defaults(tmp_path, config())
    assert (continued.gate.max_unfinished_share, continued.gate.max_unfinished_increase) == (0.2, 1.0)
    assert continued.gate.min_length_ratio == 0.0
    assert digest(continued.gate) == SECTIONS[GateConfig]
    refuse_changes(tmp_path, continued)
    assert config().gate.max_unfinished_share == 1.0
    with pytest.raises(ValueError, match=r"gate\.max_unfinished_increase: 1\.0 -> 0\.1"):
        refuse_changes(tmp_path, with_former_defaults(tmp_path, config(max_unfinished_increase=0.1)))


def test_field_that_was_added_later_counts_once_it_is_set() -> None:
    thoughtless = PolicyConfig(chat_template_arguments={"enable_thinking": False})
    dated = PolicyConfig(template_date="2024-07-26")
    assert len({digest(policy) for policy in (PolicyConfig(), thoughtless, dated)}) == 3


@pytest.mark.parametrize("name", JUDGES)
def test_digest_of_a_judge_is_that_of_0_1(name: str) -> None:
    config, published = JUDGES[name]
    assert judge_digest(JudgeConfig(**config)) == published


@pytest.mark.parametrize("answer", REPAIRS)
def test_key_of_a_paid_answer_and_of_its_repair_is_that_of_0_1(answer: str) -> None:
    messages = messages_with_form(Question([{"role": "user", "content": "x"}], SCHEMA))
    assert digest(messages) == "bc9b59094e69f9bec9de56f6adf7474ea7fddfd3129853efd680821224a2d6a1"
    reply = read_answer(answer, SCHEMA)
    assert reply.value is None
    assert digest(repair_messages(messages, reply)) == REPAIRS[answer]
