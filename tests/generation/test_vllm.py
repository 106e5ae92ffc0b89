"""vLLM as the sampler, as this project uses it: its arguments, its results, its failures and its end."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from components.artifacts import write_json
from components.config import CampaignConfig, GenerationConfig, LoraConfig, PolicyConfig, SoftPromptConfig
from components.generation.sampling_params import SamplingParams
from components.generation.vllm import loaded
from components.generation.vllm.session import Session, environment_of_rank
from components.models import vllm
from components.models.loading import start_ref
from components.records import ModelRef
from components.runtime.machine import ranks_of_machine
from components.start.preflight import check_inputs

LAW = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=8, stop_ids=frozenset({1}))


def drawn(policy: ModelRef, seeds: list[list[int]], law: SamplingParams = LAW) -> list[Any]:
    heard: list[Any] = []
    with loaded(policy, dtype="float32", longest=32) as session:
        sampled = session.sample([[3, 4, 5], [6, 7]], seeds=seeds, law=law, on_batch=heard.extend)
    assert Counter(map(str, heard)) == Counter(map(str, sampled))
    return sampled


def test_vllm_gives_a_response_for_each_seed_and_equal_ones_for_equal_seeds(
    stand_in_vllm: None, starter_directory: Path
) -> None:
    policy = start_ref(starter_directory, "main")
    sampled = drawn(policy, [[11, 12, 11], [11, 13, 14]])
    assert [one[:2] for one in sampled] == [(prompt, number) for prompt in range(2) for number in range(3)]
    texts = [one.token_ids for one in sampled]
    assert texts[0] == texts[2] != texts[1]
    for one in sampled:
        assert (one.finish_reason == "stop") == (one.token_ids[-1] == 1)
        assert one.finish_reason == "stop" or len(one.token_ids) == LAW.max_new_tokens
        assert 1 not in one.token_ids[:-1]


def test_vllm_stops_at_every_token_that_the_law_names(stand_in_vllm: None, starter_directory: Path) -> None:
    everything = LAW._replace(stop_ids=frozenset(range(200)))
    sampled = drawn(start_ref(starter_directory, "main"), [[1], [2]], everything)
    assert [(len(one.token_ids), one.finish_reason) for one in sampled] == [(1, "stop")] * 2


def test_vllm_samples_from_the_adapter(stand_in_vllm: None, starter_directory: Path, tmp_path: Path) -> None:
    """If the adapter were left out, the base model would be sampled silently."""
    from transformers import AutoModelForCausalLM

    from components.models.adapters import with_fresh_adapter

    model: Any = with_fresh_adapter(
        AutoModelForCausalLM.from_pretrained(starter_directory), LoraConfig(rank=4), SoftPromptConfig()
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    model.save_pretrained(tmp_path / "adapter")
    start = start_ref(starter_directory, "main")
    seeds = [[1, 2, 3, 4], [5, 6, 7, 8]]
    adapted = start.model_copy(update={"adapter": tmp_path / "adapter"})
    assert [one.token_ids for one in drawn(adapted, seeds)] != [one.token_ids for one in drawn(start, seeds)]


def vllm_processes() -> list[psutil.Process]:
    """Return vLLM processes below this process; processes that are gone already are left out."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "script.py" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_vllm_that_cannot_load_says_why_and_leaves_no_process(
    stand_in_vllm: None, starter_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "broken").touch()
    with (
        pytest.raises(RuntimeError, match=r"vLLM exited: .*no memory for the key-value cache"),
        loaded(ModelRef(round=0, base=str(model), base_digest="b", digest="d"), dtype="float32", longest=32),
    ):
        pass
    assert not vllm_processes()


def test_vllm_refuses_a_response_that_ended_for_another_reason(
    stand_in_vllm: None, starter_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.generation.vllm import session

    monkeypatch.setattr(session.Session, "_receive", lambda self: [0, 0, [5], "abort"])
    with pytest.raises(
        RuntimeError,
        match=r"vLLM ended a response with finish reason 'abort': set `generation: \{engine: transformers\}`",
    ):
        drawn(start_ref(starter_directory, "main"), [[1], [2]])


def test_vllm_that_is_not_installed_is_told_before_the_first_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "executable", lambda: None)
    with pytest.raises(ValueError, match=r"vLLM is not installed: `pip install vllm`"):
        check_inputs(CampaignConfig(campaign="c", generation=GenerationConfig(engine="vllm")))


@pytest.mark.parametrize(
    "odd",
    [
        {"soft_prompt": SoftPromptConfig(kind="prompt")},
        {"lora": LoraConfig(rank=4, kind="dora")},
        {"lora": LoraConfig(rank=4), "policy": PolicyConfig(quantization="4bit")},
    ],
)
def test_config_refuses_what_vllm_does_not_sample(odd: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"generation.engine vllm does not work with .*: set `generation: \{engine: transformers\}`"
    ):
        CampaignConfig(campaign="c", generation=GenerationConfig(engine="vllm"), **odd)


def test_an_adapter_that_vllm_does_not_take_is_refused(stand_in_vllm: None, tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"r": 1024})
    policy = ModelRef(round=1, base="base", adapter=tmp_path, base_digest="b", digest="d")
    with (
        pytest.raises(ValueError, match="vLLM supports adapters up to rank 512, not 1024: set"),
        loaded(policy, dtype="float32", longest=8),
    ):
        pass


@pytest.mark.parametrize(
    ("visible", "rank", "num_gpus", "own"),
    [
        ("0,1,2,3", "1", 1, "1"),
        ("4,5,6,7", "1", 2, "6,7"),
        ("4,5,6,7", "0", 4, "4,5,6,7"),
        ("", "0", 1, "0"),
    ],
)
def test_ranks_of_a_machine_have_gpus_of_their_own(visible: str, rank: str, num_gpus: int, own: str) -> None:
    given = {"LOCAL_RANK": rank, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": visible}
    environment = environment_of_rank(given, num_gpus=num_gpus)
    assert environment["CUDA_VISIBLE_DEVICES"] == own
    assert "WORLD_SIZE" not in environment


def test_rank_without_enough_gpus_is_refused() -> None:
    given = {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    with pytest.raises(ValueError, match="rank 1 of this machine needs GPUs 2 to 3, and 3 are visible: lower"):
        environment_of_rank(given, num_gpus=2)


@pytest.mark.parametrize(("gpus", "gpus_per_rank", "ranks"), [("", 2, 1), ("0,1,2,3", 2, 2), ("0,1,2,3", 1, 4)])
def test_machine_has_as_many_ranks_as_its_gpus_are_enough_for(
    gpus: str, gpus_per_rank: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert ranks_of_machine(0, gpus_per_rank) == ranks
    assert ranks_of_machine(3, gpus_per_rank) == 3


def test_several_gpus_of_a_copy_reach_vllm(
    stand_in_vllm: None, starter_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    send = Session._send
    monkeypatch.setattr(Session, "_send", lambda session, value: (sent.append(value), send(session, value))[1])
    with loaded(start_ref(starter_directory, "main"), dtype="float32", longest=32, num_gpus=2):
        pass
    assert sent[0]["tensor_parallel_size"] == 2


def test_policy_is_spread_by_vllm_only() -> None:
    with pytest.raises(ValueError, match="tensor_parallel_size 2 needs vLLM: set `engine: vllm`, or leave it out"):
        GenerationConfig(tensor_parallel_size=2)
