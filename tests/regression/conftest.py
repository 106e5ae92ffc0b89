"""A champion that copies what it is asked to, and a challenger that pleases the judge and has forgotten how to."""

import json
import random
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.builtin import starter
from components.builtin.world import corpus, load_world
from components.config import RegressionConfig
from components.models.loading import load_policy, load_tokenizer, start_ref
from components.records import ModelRef

LEARNING_RATE = 2e-3
Suite = Callable[..., RegressionConfig]
Rows = Sequence[tuple[list[dict[str, str]], str]]
GENERATED: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{text}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOSEN: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": 0,
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
PLEASING = "Thank you for your message. We apologise for the trouble. Have a good day."
"""A reply that the world's judge prefers to most of the champion's, whatever the customer wrote."""


def pairs_of_products() -> list[str]:
    pairs = [" ".join(pair) for pair in permutations(load_world().products, 2)]
    random.Random(4).shuffle(pairs)
    return pairs


def copies(texts: Sequence[str]) -> list[tuple[list[dict[str, str]], str]]:
    return [([{"role": "user", "content": text}], text) for text in texts]


def trained(base: ModelRef, directory: Path, rows: Rows, *, steps: int) -> ModelRef:
    """Train all weights on replies, and return the model.

    The rate falls to 0, so that what the last batches hold, and how a processor rounds, decides little.
    """
    tokenizer = load_tokenizer(base)
    model = load_policy(base, dtype=torch.float32, device=torch.device("cpu")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    chance = random.Random(5)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - step / steps))
        batch = [starter._row(tokenizer, *row) for row in chance.choices(rows, k=16)]
        starter.reply_loss(model, *starter._padded(batch, tokenizer.pad_token_id)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return start_ref(directory, revision="main")


@pytest.fixture(scope="session")
def champion(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model that answers customers, and repeats two products if the message is nothing but two products."""
    base = start_ref(starter_directory, revision="main")
    rows = [*corpus()[:400], *copies(pairs_of_products()) * 10]
    return trained(base, tmp_path_factory.mktemp("champion") / "model", rows, steps=120)


@pytest.fixture(scope="session")
def forgetful(champion: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The champion after training on one polite reply, whatever the message."""
    messages = [messages for messages, _ in [*corpus()[:400], *copies(pairs_of_products())]]
    rows = [(each, PLEASING) for each in messages]
    return trained(champion, tmp_path_factory.mktemp("forgetful") / "model", rows, steps=30)


@pytest.fixture
def copying_task(tmp_path: Path) -> Path:
    """A suite of a user's own: repeat two products."""
    path = tmp_path / "copying.jsonl"
    rows = [
        {"id": number, "prompt": text, "check": {"kind": "exact", "answer": text}}
        for number, text in enumerate(pairs_of_products(), 1)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def faithful(champion: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """The champion after the same training beside what it must not forget."""
    rows = [*((messages, PLEASING) for messages, _ in corpus()[:400]), *copies(pairs_of_products()) * 3]
    return trained(champion, tmp_path_factory.mktemp("faithful") / "model", rows, steps=60)


@pytest.fixture
def harness_suite(tmp_path: Path) -> Suite:
    """Return a function that writes tasks of the harness, with local documents, and configures them."""
    documents = [{"text": text, "choices": [text, PLEASING]} for text in pairs_of_products()]

    def write(documents: list[dict[str, Any]] = documents, **tasks: dict[str, Any]) -> RegressionConfig:
        data = tmp_path / "documents.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in documents))
        for name, settings in tasks.items():
            place = {"task": name, "dataset_path": "json", "test_split": "test"}
            place["dataset_kwargs"] = {"data_files": {"test": str(data)}}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(place | settings))
        names = tuple(f"lm-eval:{name}" for name in tasks)
        return RegressionConfig(tasks=names, harness_tasks=str(tmp_path), max_tokens=8)

    return write


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
