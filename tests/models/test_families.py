"""docs/models.md says of every family what a trial finds; here a few are tried again."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.models.loading import load_policy, start_ref
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


def test_rwkv_of_more_layers_than_it_rescales_is_trained_and_saved_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers halves the weights of layers 7 and 8 in place in evaluation mode: other ones would be published."""
    model_type, shape = FAMILIES["RWKV"]
    monkeypatch.setitem(FAMILIES, "RWKV", (model_type, shape | {"num_hidden_layers": 8}))
    assert tried("RWKV", tmp_path).verdict == "exact and slower"
    ref = start_ref(tmp_path, revision="main")
    model = load_policy(ref, dtype=torch.float32, device=torch.device("cpu"))
    loaded = {name: weight.clone() for name, weight in model.state_dict().items()}
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    ours = model(input_ids=ids).logits
    assert all(torch.equal(weight, loaded[name]) for name, weight in model.state_dict().items())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
