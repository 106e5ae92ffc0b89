"""Digests that version 0.1.0 wrote into campaigns and caches of paid answers.

A word in a template, a field's default or a key's name that changes one of them stops every campaign that has it, or
has its judge asked, and paid, again. Such a change must be meant, and stand under "Re-runs stages" in the CHANGELOG.
"""

from typing import Any

import pytest

from components.artifacts import digest
from components.config import JudgeConfig
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
