"""Rounds in sequence with every kind of adapter.

The reference is what the round started from, and what is saved comes back.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from components.artifacts import read_json, write_json
from components.campaign.models import model_of_round
from components.campaign.state import round_directory
from components.config import LoraConfig, SoftPromptConfig
from components.dpo import checks, stage
from components.dpo.stage import run
from components.generation.sampler import Sampled, sample
from components.generation.sampling_params import SamplingParams
from components.models.adapters import describe_saved
from components.models.loading import load_policy, tensors_digest
from components.records import ModelRef, TrainRequest
from components.scoring.response_logps import response_logps

Make = Callable[..., TrainRequest]
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": LoraConfig(rank=4, alpha=8)},
    "dora": {"lora": LoraConfig(rank=4, alpha=8, kind="dora")},
    "prompt": {"soft_prompt": SoftPromptConfig(kind="prompt", num_tokens=4)},
    "prefix": {"soft_prompt": SoftPromptConfig(kind="prefix", num_tokens=4)},
}
LORA, PREFIX = KINDS["lora"], KINDS["prefix"]


class Campaign:
    """A campaign's directory in which only trainings are run, one after the other, each from the round before."""

    def __init__(self, directory: Path, make_request: Make) -> None:
        self.directory, self.make_request = directory, make_request
        pinned = round_directory(directory, 0) / "start"
        pinned.mkdir(parents=True)
        write_json(pinned / "start.json", {"model": make_request().policy.model_dump(mode="json")})

    def train(self, number: int, *, reference: int | None = None, **changes: Any) -> dict[str, Any]:
        policy = model_of_round(self.directory, number - 1)
        against = policy if reference is None else model_of_round(self.directory, reference)
        request = self.make_request(policy=policy, reference=against, **{"learning_rate": 1e-2, **changes})
        out = round_directory(self.directory, number) / "dpo_train"
        out.mkdir(parents=True)
        run(request.model_copy(update={"round": number}), out)
        return read_json(out / "train.json")


@pytest.fixture
def campaign(tmp_path: Path, make_request: Make) -> Campaign:
    return Campaign(tmp_path / "campaign", make_request)


def tokens_of(ref: ModelRef) -> list[list[int]]:
    model = load_policy(ref, dtype=torch.float32, device=torch.device("cpu"))
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=1, max_new_tokens=6, stop_ids=frozenset())
    found = sample(
        model, [[7, 8, 9], [10, 11]], seeds=[[1], [2]], law=law, pad_id=0, batch_size=2, on_batch=lambda _: None
    )
    return [answer.token_ids for answer in found]


@pytest.mark.parametrize("kind", KINDS)
def test_second_round_refers_to_what_the_first_one_made(kind: str, campaign: Campaign) -> None:
    first = campaign.train(1, **KINDS[kind])
    second = campaign.train(2, **KINDS[kind])
    start, made = model_of_round(campaign.directory, 0), model_of_round(campaign.directory, 1)
    is_soft_prompt = kind in ("prompt", "prefix")
    assert first["ln2_checked"] is not is_soft_prompt, "fresh virtual tokens change the model before the first step"
    assert second["ln2_checked"]
    assert second["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["start_digest"] == first["reference_digest"] == start.digest
    assert second["start_digest"] == second["reference_digest"] == first["policy_digest"] == made.digest
    assert second["policy_digest"] != first["policy_digest"]
    assert (second["base_round"], second["base_digest"]) == (
        (2, second["policy_digest"]) if kind == "full" else (0, start.digest)
    )
    latest = model_of_round(campaign.directory, 2)
    said = tokens_of(latest)
    assert [len(tokens) for tokens in said] == [6, 6]
    if kind != "full":
        assert described(latest) == second["adapter"] == first["adapter"]


def described(ref: ModelRef) -> str:
    assert ref.adapter is not None
    return describe_saved(ref.adapter)


@pytest.mark.parametrize("kind", ["lora", "dora", "prompt", "prefix"])
def test_saved_adapter_is_what_peft_loads(kind: str, campaign: Campaign) -> None:
    campaign.train(1, **KINDS[kind])
    ref = model_of_round(campaign.directory, 1)
    ours = load_policy(ref, dtype=torch.float32, device=torch.device("cpu"))
    theirs = AutoPeftModelForCausalLM.from_pretrained(ref.adapter, dtype=torch.float32).eval()
    prompt, answer = [5, 6, 7], [20, 21, 22]
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([prompt + answer])).logits[0, -4:-1]
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(answer).unsqueeze(1)).sum()
    scored = response_logps(ours, 0, [prompt, [1, *prompt]], [answer, answer], max_rows=2)
    assert float(scored[0]) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_full_round_after_an_adapter_starts_from_the_merged_weights(kind: str, campaign: Campaign) -> None:
    first = campaign.train(1, **KINDS[kind])
    second = campaign.train(2, learning_rate=1e-3)
    assert second["directory"] == "model"
    assert second["ln2_checked"]
    assert second["reference_digest"] == first["policy_digest"]
    assert campaign.train(3, reference=1)["first_loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_merged_and_unmerged_adapter_score_the_same(campaign: Campaign) -> None:
    campaign.train(1, **LORA)
    model: Any = load_policy(model_of_round(campaign.directory, 1), dtype=torch.float32, device=torch.device("cpu"))
    rows = ([[5, 6, 7], [8]], [[20, 21], [22, 23, 24]])
    unmerged = response_logps(model, 0, *rows, max_rows=2)
    torch.testing.assert_close(
        response_logps(model.merge_and_unload(), 0, *rows, max_rows=2), unmerged, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_adapter_after_a_full_round_stands_on_that_rounds_weights(kind: str, campaign: Campaign) -> None:
    full = campaign.train(1)
    first = campaign.train(2, **KINDS[kind])
    second = campaign.train(3, **KINDS[kind])
    base = str(round_directory(campaign.directory, 1) / "dpo_train" / "model")
    for number, trained in ((2, first), (3, second)):
        ref = model_of_round(campaign.directory, number)
        assert (ref.base, ref.base_round, ref.base_digest) == (base, 1, full["policy_digest"])
        assert (trained["base_round"], trained["base_digest"]) == (1, full["policy_digest"])
        assert ref.adapter is not None
        own = tensors_digest([ref.adapter / "adapter_model.safetensors"])
        assert ref.digest == hashlib.sha256(f"{ref.base_digest}+{own}".encode()).hexdigest()
    assert second["ln2_checked"]
    assert second["first_loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_files_of_earlier_versions_find_their_base_by_digest(campaign: Campaign) -> None:
    full = campaign.train(1)
    campaign.train(2, **LORA)
    campaign.train(3, **LORA)
    for number in (1, 2, 3):
        path = round_directory(campaign.directory, number) / "dpo_train" / "train.json"
        old = {
            key: value for key, value in read_json(path).items() if key not in ("base_round", "base_digest", "adapter")
        }
        write_json(path, old)
    assert [model_of_round(campaign.directory, number).base_digest for number in (1, 2, 3)] == [
        full["policy_digest"]
    ] * 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"lora": LoraConfig(rank=8, alpha=8)},
            r"lora of rank 4, alpha 8.*lora of rank 8, alpha 8.*set it back, or `lora: \{rank: 0\}`",
        ),
        ({"lora": LoraConfig(rank=4, alpha=8, kind="dora")}, "asks for another .dora of rank 4"),
        (PREFIX, "asks for another .prefix of 4 tokens"),
    ],
)
def test_adapter_that_cannot_become_the_configured_one_is_refused(
    changes: dict[str, Any], told: str, campaign: Campaign
) -> None:
    campaign.train(1, **LORA)
    with pytest.raises(ValueError, match=told):
        campaign.train(2, **changes)


def test_adapter_on_other_modules_is_refused_and_on_the_same_ones_in_other_words_taken(campaign: Campaign) -> None:
    """With --accept-changes, round 2 went on with the modules of round 1, whatever was asked for."""

    def lora(modules: str) -> dict[str, Any]:
        return {"lora": LoraConfig(rank=4, alpha=8, target_modules=modules)}

    campaign.train(1, **lora("q_proj, v_proj"))
    with pytest.raises(
        ValueError,
        match=r"round 1 trained an adapter on \d+ modules \(q_proj, v_proj\), and lora.target_modules = all-linear "
        r"names \d+, \d+ of them the same: set it back",
    ):
        campaign.train(2, **lora("all-linear"))
    shutil.rmtree(round_directory(campaign.directory, 2))
    assert campaign.train(2, **lora("self_attn.v_proj,q_proj"))["ln2_checked"]


def test_virtual_tokens_cannot_be_merged_into_weights(campaign: Campaign) -> None:
    campaign.train(1, **PREFIX)
    with pytest.raises(
        ValueError, match=r"round 1 trained an adapter \(prefix of 4 tokens\).* set it back, or begin another campaign"
    ):
        campaign.train(2)


@pytest.mark.parametrize(("kind", "zero_stage"), [("lora", 3), ("dora", 2), ("dora", 3), ("prompt", 3), ("prefix", 3)])
def test_adapter_same_losses_and_whole_files_at_every_zero_stage(
    kind: str, zero_stage: int, make_request: Make, tmp_path: Path
) -> None:
    settings = {**KINDS[kind], "learning_rate": 1e-2}
    for name, stage_number in (("plain", 0), ("sharded", zero_stage)):
        (tmp_path / name).mkdir()
        run(make_request(zero_stage=stage_number, **settings), tmp_path / name)
    assert losses(tmp_path / "sharded") == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    with safe_open(tmp_path / "sharded" / "adapter" / "adapter_model.safetensors", framework="pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    assert shapes
    assert all(math.prod(shape) > 0 for shape in shapes.values())


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["full", "dora", "prompt", "prefix"])
def test_adapter_in_bfloat16_is_saved_and_answers_as_trained(kind: str, make_request: Make, tmp_path: Path) -> None:
    request = make_request(**KINDS[kind], learning_rate=1e-2)
    request = request.model_copy(update={"limits": request.limits.model_copy(update={"dtype": "bfloat16"})})
    (tmp_path / "run").mkdir()
    run(request, tmp_path / "run")
    assert read_json(tmp_path / "run" / "train.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", ["full", "lora", "prefix"])
def test_saved_weights_that_are_incomplete_are_not_published(
    kind: str, make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = stage.save_trained

    def broken(request: Any, model: Any, tokenizer: Any, state: Any, out: Path, **stops: Any) -> None:
        saved(request, model, tokenizer, state, out, **stops)
        (file,) = out.glob("*/*.safetensors")
        save_file(
            {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()},
            file,
            metadata={"format": "pt"},
        )

    monkeypatch.setattr(stage, "save_trained", broken)
    with pytest.raises(RuntimeError, match="so they are incomplete"):
        run(make_request(**KINDS[kind], learning_rate=1e-2), tmp_path)
    assert not (tmp_path / "train.json").exists()


def test_saved_weights_that_answer_otherwise_are_not_published(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They score as they should: what fails is only the way in which the next stage samples."""

    def other(*rows: Any, **settings: Any) -> list[Sampled]:
        return [
            answer._replace(token_ids=[token ^ 1 for token in answer.token_ids]) for answer in sample(*rows, **settings)
        ]

    monkeypatch.setattr(checks, "sample", other)
    with pytest.raises(
        RuntimeError,
        match=r"answer differently from the trained ones \(token 1 is \d+ instead of \d+\), so they are incomplete",
    ):
        run(make_request(**LORA), tmp_path)
    assert not (tmp_path / "train.json").exists()
