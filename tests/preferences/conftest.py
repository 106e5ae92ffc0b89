"""The published responses of a round, as the stage reads them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from components.artifacts import file_digest, write_table
from components.data.messages import format_messages
from components.data.prompts import Prompt
from components.records import Artifact

Tables = dict[str, Artifact]


@pytest.fixture
def tables_of(tmp_path: Path) -> Callable[[Sequence[Prompt], Sequence[Sequence[str]]], Tables]:
    """Return a function that writes prompts, and the texts that answer each, as a request names them."""

    def write(prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]) -> Tables:
        asked = [(prompt.prompt_id, format_messages(prompt.messages)) for prompt in prompts]
        answers = [
            (prompt.prompt_id, number, text)
            for prompt, of_prompt in zip(prompts, texts, strict=True)
            for number, text in enumerate(of_prompt)
        ]
        tables = {
            "prompts": pd.DataFrame(asked, columns=["prompt_id", "messages"]),
            "responses": pd.DataFrame(answers, columns=["prompt_id", "sample_id", "text"]),
        }
        written = {}
        for name, table in tables.items():
            path = tmp_path / f"{name}.parquet"
            write_table(path, table)
            written[name] = Artifact(path=path, digest=file_digest(path))
        return written

    return write
