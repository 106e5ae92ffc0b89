"""A policy's tokenizer, and pairs and requests made for it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from components.artifacts import digest, file_digest, write_table
from components.config import HeldOutBy, PolicyConfig, Takes, ValidationConfig
from components.data.messages import Messages, format_messages
from components.data.prompts import prompt_id
from components.records import Artifact, ModelRef, ValidateRequest

# Refuses a system message, and puts a mark in front of a conversation whose answer is "moves".
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if loop.first and messages[-1]['content'] == 'moves' %}{{ '<moved> ' }}{% endif %}"
    "{{ '<' + m['role'] + '> ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
QUIET = {"min_pairs": 1, "max_quarantine_share": 1.0, "eval_share": 0.0, "data_checks": "off"}
SPECIAL = ["<unk>", "<user>", "<assistant>", "<end>", "<moved>", "<system>"]


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    words = SPECIAL + [f"w{number}" for number in range(200)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>")
    fast.chat_template = TEMPLATE
    path = tmp_path_factory.mktemp("policy")
    fast.save_pretrained(path)
    LlamaConfig(eos_token_id=fast.eos_token_id).save_pretrained(path)
    return ModelRef(round=0, base=str(path), base_digest="0", digest="0")


def make_pair(question: str | Messages, chosen: Any = "w1 w2", rejected: Any = "w3", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    prompt = format_messages(messages)
    row = {
        "pair_id": digest([prompt, chosen, rejected])[:16],
        "prompt_id": prompt_id(messages),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "p": 1.0,
        "margin": 1.0,
        "tag": "helpfulness",
        "judge": "rule:test",
        "verdict_ids": ["a", "b"],
    }
    return row | changes


@pytest.fixture
def make_request(tmp_path: Path, policy: ModelRef) -> Callable[..., ValidateRequest]:
    def make(
        rows: Sequence[dict[str, Any]],
        *,
        held_out: Sequence[str] = ("w199",),
        replayed: Sequence[Sequence[dict[str, Any]]] = (),
        round: int = 3,
        seed: int = 1,
        takes: Takes = "pairs",
        limits: PolicyConfig | None = None,
        held_out_by: HeldOutBy = "content",
        **knobs: Any,
    ) -> ValidateRequest:
        def write(name: str, table: pd.DataFrame) -> Artifact:
            write_table(tmp_path / name, table)
            return Artifact(path=tmp_path / name, digest=file_digest(tmp_path / name))

        held = [[{"role": "user", "content": text}] for text in held_out]
        columns = list(rows[0] if rows else make_pair("w0"))
        return ValidateRequest(
            preferences=write("preferences.parquet", pd.DataFrame(rows, columns=columns)),
            replayed=tuple(
                write(f"replayed-{number}.parquet", pd.DataFrame(table)) for number, table in enumerate(replayed)
            ),
            held_out=write(
                "held_out.parquet",
                pd.DataFrame(
                    {"prompt_id": [prompt_id(m) for m in held], "messages": [format_messages(m) for m in held]}
                ),
            ),
            policy=policy,
            limits=limits or PolicyConfig(max_prompt_tokens=12, max_response_tokens=6),
            validation=ValidationConfig(**{**QUIET, **knobs}),
            takes=takes,
            held_out_by=held_out_by,
            round=round,
            seed=seed,
        )

    return make


@pytest.fixture
def pair() -> Callable[..., dict[str, Any]]:
    return make_pair
