"""docs/models.md says of every family what a trial finds; here a few are tried again."""

from pathlib import Path

import pytest

from tests.models.families import FAMILIES, PAGE, in_page, tried

SOME = (
    "Mixtral",
    "Llama with dynamic RoPE",
    "Gemma 3n",
    "Gemma 4",
    "Falcon",
    "BLOOM",
    "Mamba-2",
    "RWKV",
    "RecurrentGemma",
    "BERT as a decoder",
)
"""One of each kind: fast, by a window, by shared keys, by an attention of its own, by a state, and refused."""


def lines() -> list[list[str]]:
    """Return the cells of the page's table, without its head."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in in_page(PAGE.read_text()).splitlines()[3:-1]
    ]


def test_page_has_every_family_and_no_other() -> None:
    assert [line[0] for line in lines()] == list(FAMILIES), "run `make models`"


@pytest.mark.parametrize("family", SOME)
def test_family_is_as_the_page_says(family: str, tmp_path: Path) -> None:
    """Sampled, scored and trained as transformers' plain forward says, and in the way that is written."""
    (line,) = (line for line in lines() if line[0] == family)
    row = tried(family, tmp_path)
    assert [row.family, f"`{row.model_type}`", row.verdict, row.sampled, row.scored] == line[:5], "run `make models`"
