from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoTokenizer

from components.artifacts import file_digest, write_table
from components.builtin.world import corpus, support_reply
from components.config import ConstraintsConfig, LoraConfig, PolicyConfig, SoftPromptConfig, TrainingConfig
from components.data.content import HeldOutContents
from components.data.messages import format_messages
from components.data.prompts import prompt_id
from components.dpo.stage import run
from components.models.loading import start_ref
from components.models.tokens import ChatTokenizer
from components.records import Artifact, TrainRequest
from components.runtime import progress
from components.validation.semantics import encode

NUM_PAIRS = 22
LIMITS = PolicyConfig(dtype="float32", max_prompt_tokens=64, max_response_tokens=64)


@pytest.fixture(scope="session")
def pair_tables(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Training and evaluation pairs: neighbouring replies of the corpus put to one prompt, the better one chosen."""
    directory = tmp_path_factory.mktemp("pairs")
    chat = ChatTokenizer(AutoTokenizer.from_pretrained(starter_directory))
    rows: list[dict[str, Any]] = []
    replies = corpus()
    for (messages, first), (_, second) in zip(replies[::2], replies[1::2], strict=False):
        margin = support_reply(messages, first) - support_reply(messages, second)
        chosen, rejected = (first, second) if margin > 0 else (second, first)
        if margin and len(rows) < NUM_PAIRS + 6:
            tag = "style" if len(rows) % 4 == 3 else "helpfulness"
            pair = {"prompt": format_messages(messages), "chosen": chosen, "rejected": rejected, "p": 1.0, "tag": tag}
            rows.append(pair | {"prompt_id": prompt_id(messages), "weight": 1.0})
    for name, part in (("train", rows[:NUM_PAIRS]), ("eval", rows[NUM_PAIRS:])):
        table = pd.DataFrame(part)
        encoded = encode(table, chat, limits=LIMITS, held_out=HeldOutContents((), "content"))
        assert not encoded.reasons
        write_table(directory / f"{name}.parquet", table.assign(**encoded.tokens))
    train, held_out = (
        Artifact(path=path, digest=file_digest(path))
        for path in (directory / "train.parquet", directory / "eval.parquet")
    )
    return train, held_out


@pytest.fixture(scope="session")
def make_request(starter_directory: Path, pair_tables: tuple[Artifact, Artifact]) -> Callable[..., TrainRequest]:
    """Builds a training request on the start model.

    Keyword arguments override the training section, or name other models.
    """
    start = start_ref(starter_directory, revision="main")

    def make(
        *,
        policy: Any = start,
        reference: Any = start,
        lora: LoraConfig | None = None,
        soft_prompt: SoftPromptConfig | None = None,
        constraints: ConstraintsConfig | None = None,
        **training: Any,
    ) -> TrainRequest:
        settings = {"pairs_per_step": 8, "micro_batch_pairs": 8, "learning_rate": 1e-3, "num_processes": 1, **training}
        return TrainRequest(
            policy=policy,
            reference=reference,
            train=pair_tables[0],
            eval=pair_tables[1],
            limits=LIMITS,
            lora=lora or LoraConfig(),
            soft_prompt=soft_prompt or SoftPromptConfig(),
            training=TrainingConfig(**settings),
            constraints=constraints or ConstraintsConfig(),
            round=1,
            seed=7,
        )

    return make


class Stop(BaseException):
    """Stands for a killed process: nothing in the code catches it."""


class StopAfter:
    def __init__(self, step: int) -> None:
        self.step = step

    def began(self, round: str, stage: str) -> None: ...

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...

    def advanced(self, done: int, total: int, text: str) -> None:
        if done == self.step and text.startswith("loss "):  # not what is done before the first step
            raise Stop


@pytest.fixture(scope="session")
def run_until() -> Callable[[TrainRequest, Path, int], None]:
    """Trains into a directory and is killed after a step."""

    def run_and_stop(request: TrainRequest, out: Path, step: int) -> None:
        out.mkdir(parents=True)
        with progress.reporting_to(StopAfter(step)), pytest.raises(Stop):
            run(request, out)

    return run_and_stop
