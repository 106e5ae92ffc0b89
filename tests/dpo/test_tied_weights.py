"""A model whose head is its embedding is trained, saved and digested the same at every ZeRO stage."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from components.artifacts import read_json
from components.dpo.stage import run
from components.models.loading import start_ref
from components.records import ModelRef, TrainRequest


@pytest.fixture(scope="module")
def tied(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    directory = tmp_path_factory.mktemp("tied") / "model"
    config = AutoConfig.from_pretrained(starter_directory)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(starter_directory).save_pretrained(directory)
    return start_ref(directory, revision="main")


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_training_tied_head_is_saved_once(
    zero_stage: int, tied: ModelRef, make_request: Callable[..., TrainRequest], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    run(make_request(policy=tied, reference=tied, zero_stage=zero_stage), out)
    assert read_json(out / "train.json")["policy_digest"] != tied.digest
    with safe_open(out / "model" / "model.safetensors", framework="pt") as tensors:
        assert "lm_head.weight" not in tensors.keys()  # noqa: SIM118
        assert "model.embed_tokens.weight" in tensors.keys()  # noqa: SIM118
