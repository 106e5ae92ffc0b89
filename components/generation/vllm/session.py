"""A policy loaded in vLLM, which samples responses over a pipe.

Knows how to express a law in vLLM's arguments, and nothing of stages.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.models import vllm
from components.records import ModelRef
from components.runtime.children import server_process
from components.runtime.machine import visible_gpus

SCRIPT = Path(__file__).with_name("script.py")
REMEDY = "set `generation: {engine: transformers}`"
OF_A_RANK = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
)
"""Variables that torchrun sets for a rank; a process that is not a rank must not read them."""
REPORTED = 32
"""Responses after which progress is reported."""


class Session:
    """A policy that vLLM has loaded."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Path) -> None:
        self._process, self._errors = process, errors

    def sample(
        self,
        prompts: Sequence[list[int]],
        *,
        seeds: Sequence[Sequence[int]],
        law: SamplingParams,
        on_batch: Callable[[Sequence[Sampled]], None],
        **further: Any,
    ) -> list[Sampled]:
        """Sample responses, like `sampler.sample`.

        Equal seeds give equal draws; the other prompts of a batch change only float noise.

        Args:
            prompts: Token ids of each prompt.
            seeds: One seed per response, (num_prompts, num_samples).
            law: The distribution of tokens, and the end of a response.
            on_batch: Called with some responses at a time.
            further: Other arguments of vLLM's `SamplingParams`.

        Raises:
            RuntimeError: vLLM exited, or ended a response for another reason than a stop token or the limit.
        """
        sampling = {
            "temperature": law.temperature,
            "top_p": law.top_p,
            "top_k": law.top_k,
            "max_tokens": law.max_new_tokens,
            "stop_token_ids": sorted(law.stop_ids),
            # The law names every token that ends a response.
            "ignore_eos": True,
            "detokenize": law.stops is not None,
        }
        if law.stops is not None:
            # Read as a judge does, special tokens included; the response is cut at the string outside of vLLM.
            sampling |= {"stop": list(law.stops.strings), "include_stop_str_in_output": True}
            sampling |= {"skip_special_tokens": False, "spaces_between_special_tokens": False}
        self._send({"prompts": list(prompts), "seeds": [list(own) for own in seeds], "sampling": sampling | further})
        answers: list[Sampled] = []
        reported = 0
        while (line := self._receive()) is not None:
            answer = Sampled(*line)
            if answer.finish_reason not in ("stop", "length"):
                raise RuntimeError(f"vLLM ended a response with finish reason {answer.finish_reason!r}: {REMEDY}")
            answers.append(answer)
            if len(answers) - reported == REPORTED:
                on_batch(answers[reported:])
                reported = len(answers)
        if answers[reported:]:
            on_batch(answers[reported:])
        return sorted(answers, key=lambda answer: answer[:2])

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_receive` reports why the process ended
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            text = self._errors.read_text(errors="replace")
            # The first error is the cause, and later ones only report that something failed. An error within a warning
            # is not a cause.
            cause = re.search(r"^(?!.* WARNING ).*?\b(\w+Error: .+)", text, re.MULTILINE) or re.search(
                r"(.+)(?=\s*\Z)", text
            )
            raise RuntimeError(f"vLLM exited: {cause[1].strip()}" if cause else "vLLM exited without an error message")
        return json.loads(line)


@contextlib.contextmanager
def loaded(
    policy: ModelRef, *, dtype: str, longest: int, reads_text: bool = False, num_gpus: int = 1
) -> Iterator[Session]:
    """Load a policy in vLLM's own Python, and end that process with the block.

    Args:
        policy: A model, or an adapter on one.
        dtype: `float32` or `bfloat16`.
        longest: Tokens of the longest prompt and response together.
        reads_text: Whether responses may end at stop strings.
        num_gpus: GPUs over which the policy is spread; those of the ranks of a machine do not overlap.

    Raises:
        ValueError: vLLM is not installed, this rank has fewer GPUs, or vLLM does not support the policy's adapter.
        RuntimeError: vLLM could not load the policy.
    """
    settings: dict[str, Any] = {
        "model": str(Path(policy.base).absolute()),
        "dtype": dtype,
        "max_model_len": longest,
        # Prompts come as tokens, and the model's generation config must not change the law.
        "skip_tokenizer_init": not reads_text,
        "generation_config": "vllm",
        "enable_prefix_caching": True,
        # vLLM 0.32 rewinds a seeded draw if a prompt was read in parts, which a CPU's generator cannot do.
        "enable_chunked_prefill": visible_gpus() > 0,
        **({"tensor_parallel_size": num_gpus} if num_gpus > 1 else {}),
        "adapter": None if policy.adapter is None else str(policy.adapter.absolute()),
    } | _adapter(policy)
    with tempfile.TemporaryDirectory(prefix="ratchet-vllm-") as place:
        errors = Path(place) / "errors.log"
        with (
            errors.open("w") as log,
            server_process(
                [str(vllm.interpreter()), str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment_of_rank(os.environ, num_gpus=num_gpus),
            ) as process,
        ):
            session = Session(process, errors)
            session._send(settings)
            session._receive()
            yield session


def _adapter(policy: ModelRef) -> dict[str, Any]:
    if policy.adapter is None:
        return {}
    return {"enable_lora": True, "max_lora_rank": vllm.largest_rank(vllm.adapter_settings(policy.adapter), REMEDY)}


def environment_of_rank(environment: Mapping[str, str], *, num_gpus: int) -> dict[str, str]:
    """Return the environment of a process that is not a torchrun rank, but has the accelerators of its parent rank.

    Args:
        environment: The rank's environment.
        num_gpus: GPUs of each rank.

    Raises:
        ValueError: The machine has too few GPUs for its ranks.
    """
    own = {name: value for name, value in environment.items() if name not in OF_A_RANK} | {"VLLM_NO_USAGE_STATS": "1"}
    rank = environment.get("LOCAL_RANK")
    if rank is None:
        return own
    named = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    visible = named or [str(number) for number in range(visible_gpus())]
    first = int(rank) * num_gpus
    if num_gpus > 1 and first + num_gpus > len(visible):
        raise ValueError(
            f"rank {rank} of this machine needs GPUs {first} to {first + num_gpus - 1}, and {len(visible)} "
            "are visible: lower generation.num_processes or generation.tensor_parallel_size"
        )
    return own | {"CUDA_VISIBLE_DEVICES": ",".join(visible[first : first + num_gpus] or [rank])}
