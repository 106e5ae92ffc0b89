"""Memory that runs out ends the stage in one line that says what fits, and what it says is true."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from components.config import TrainingConfig
from components.dpo import objective
from components.dpo.out_of_memory import OutOfMemory, explaining_out_of_memory, is_out_of_memory
from components.records import StageFailed, TrainRequest
from components.runtime.launch import run_stage
from components.scoring import response_logps as scoring

Make = Callable[..., TrainRequest]
CPU_ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "123456 bytes. "
    "Error code 12 (Cannot allocate memory)"
)
CUDA_ALLOCATOR = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB\nof which 1.2 GiB is free."
)


def fits_up_to(pairs: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Lets the training's forward fail for micro-batches above a size; returns the sizes that are asked for."""
    original, asked = scoring.token_scores, []

    def limited(model: Any, batch: Any, **options: Any) -> Any:
        size = len(batch.prompts) // 2
        asked.append(size)
        if size > pairs:
            raise error
        return original(model, batch, **options)

    monkeypatch.setattr(objective, "token_scores", limited)
    return asked


@pytest.mark.parametrize("zero_stage", [0, 2])
@pytest.mark.parametrize(
    ("error", "asked_for"),
    [
        (RuntimeError(CPU_ALLOCATOR), "123456 bytes"),
        (torch.OutOfMemoryError(CUDA_ALLOCATOR), "2.50 GiB"),
        (MemoryError(), None),
    ],
    ids=["cpu", "cuda", "python"],
)
def test_training_out_of_memory_names_the_micro_batch_that_fits(
    error: Exception,
    asked_for: str | None,
    zero_stage: int,
    make_request: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = fits_up_to(2, monkeypatch, error)
    with pytest.raises(StageFailed) as caught:
        run_stage("dpo_train", make_request(micro_batch_pairs=16, zero_stage=zero_stage), tmp_path)
    told = str(caught.value)
    assert told.startswith("dpo_train failed: OutOfMemory: training ran out of memory with 8 pairs in a micro-batch")
    assert "set it to 2, tried just now on the longest pairs" in told
    assert "training.gradient_checkpointing: true" in told
    assert "lora.rank" in told
    assert asked_for is None or f"asking for {asked_for} more" in told
    assert "\n" not in told
    assert not caught.value.may_pass, "the same settings would fail again"
    assert tried == [8, 4, 2]
    assert not list(tmp_path.glob("dpo_train"))


def test_training_the_micro_batch_that_was_named_goes_through(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits_up_to(2, monkeypatch, RuntimeError(CPU_ALLOCATOR))
    manifest = run_stage("dpo_train", make_request(micro_batch_pairs=2), tmp_path)
    assert "train.json" in manifest.files


def test_training_that_fits_no_pair_says_so(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits_up_to(0, monkeypatch, RuntimeError(CPU_ALLOCATOR))
    with pytest.raises(StageFailed, match="asking for 123456 bytes more: not even 1 pair fits"):
        run_stage("dpo_train", make_request(), tmp_path)


def test_training_zero_3_names_half_and_says_that_it_was_not_tried(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits_up_to(2, monkeypatch, RuntimeError(CPU_ALLOCATOR))
    with pytest.raises(StageFailed, match=r"set it to 4, half of what failed \(not tried\)") as caught:
        run_stage("dpo_train", make_request(zero_stage=3), tmp_path)
    assert "zero_stage" not in str(caught.value), "what is already on is no remedy"


def test_reference_scoring_out_of_memory_is_told(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError(CUDA_ALLOCATOR)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", full)
    with pytest.raises(
        StageFailed, match=r"scoring under the reference ran out of memory with 8 pairs.*set it to 4, half"
    ):
        run_stage("dpo_train", make_request(), tmp_path)


def told(attempt: Callable[[int], None] | None, size: int = 9) -> str:
    with (
        pytest.raises(OutOfMemory) as caught,
        explaining_out_of_memory(
            "training", TrainingConfig(), micro_batch_pairs=size, has_adapter=True, attempt=attempt
        ),
    ):
        raise MemoryError
    return str(caught.value)


def test_memory_told_attempt_that_breaks_otherwise_falls_back_to_half(caplog: pytest.LogCaptureFixture) -> None:
    def broken(size: int) -> None:
        raise KeyError(size)

    with caplog.at_level(logging.WARNING):
        assert "set it to 4, half of what failed (not tried)" in told(broken)
    assert "could not be tried: KeyError: 4" in caplog.text


def test_memory_told_one_pair_cannot_be_lower() -> None:
    assert "it cannot be lower" in told(lambda size: None, size=1)
    assert "lora" not in told(None)


def test_memory_told_other_errors_pass_unchanged() -> None:
    with (
        pytest.raises(RuntimeError, match=r"^shapes differ$"),
        explaining_out_of_memory("training", TrainingConfig(), micro_batch_pairs=2, has_adapter=False),
    ):
        raise RuntimeError("shapes differ")


def test_memory_told_lets_go_of_what_failed_before_it_tries_less() -> None:
    alive: list[int] = []

    class Activation:
        def __del__(self) -> None:
            alive.remove(1)

    def forward() -> None:
        activation = Activation()
        alive.append(1)
        raise MemoryError(activation is None)

    def attempt(size: int) -> None:
        assert not alive, "the failed forward still holds its memory"

    with (
        pytest.raises(OutOfMemory, match="set it to 4, tried"),
        explaining_out_of_memory("training", TrainingConfig(), micro_batch_pairs=8, has_adapter=False, attempt=attempt),
    ):
        forward()


REALLY_FULL = """
import resource, torch
from components.dpo.out_of_memory import is_out_of_memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    torch.empty(2**28, dtype=torch.float32)
except Exception as error:
    print(type(error).__name__, is_out_of_memory(error))
"""


def test_is_out_of_memory_knows_the_error_of_a_machine_that_is_really_full() -> None:
    ended = subprocess.run([sys.executable, "-c", REALLY_FULL], capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout.split() == ["RuntimeError", "True"], ended


def test_is_out_of_memory_other_errors_are_not() -> None:
    assert not is_out_of_memory(OSError(28, "No space left on device"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
