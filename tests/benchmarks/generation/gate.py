"""The gate before any timing: our sampler's tokens and law are those of transformers' `generate`.

The other systems are looked at.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case, end_after, prompts
from ours import Answers, Ours
from peers import Generate, GenerateBatch
from scipy import stats
from shapes import EOS, PAD, Shape
from transformers import AutoModelForCausalLM
from vllm_peer import Vllm

from components.models import vllm

CASE = Case(samples=4, ragged=True)
PROMPTS = 32
PLAIN = {"batch": 16, "cache": "dynamic", "by_length": True}
PAGED = {"page": 32, "rows": 64, "tokens": 1024}
CERTAINTY = 0.999


def same_greedy_tokens(shape: Shape, directory: Path, *, max_new_tokens: int) -> dict[str, int]:
    """Compare the most likely tokens of prompts of different lengths, in fp32.

    Raises:
        AssertionError: An answer differs from `generate`'s.
    """
    asked = prompts(CASE, 16, shape.vocabulary, seed=2)
    case = Case(samples=1, ragged=False)  # the end token would be the most likely one at once
    options: dict[str, Any] = {"dtype": torch.float32, "max_new_tokens": max_new_tokens, "greedy": True}
    ours, theirs = (
        Ours(shape, directory, case, **options)(asked),
        Generate(shape, directory, case, **options)(asked, **PLAIN),
    )
    apart = [index for index, answer in enumerate(ours) if answer != theirs[index]]
    assert not apart, f"greedy answers to the prompts {apart} differ: {ours[apart[0]]} and {theirs[apart[0]]}"
    found = {"answers": len(asked), "tokens": sum(len(answer) for several in ours for answer in several)}
    if vllm.executable():
        with Vllm(shape, directory, case, **options) as peer:
            found["answers of vLLM that are the same"] = sum(
                own == other for own, other in zip(ours, peer(asked), strict=True)
            )
    return found


def same_law(shape: Shape, directory: Path, *, dtype: torch.dtype, max_new_tokens: int) -> dict[str, Any]:
    """Compare means of sampled responses with those of `generate`.

    Log-probability of a token, tokens of an answer, share that stopped.

    Log-probabilities are the fp32 model's, by a plain forward over whole answers, whatever precision sampled it. The
    differences are taken prompt by prompt, and Student's 99.9 % interval of their mean has to hold 0.

    Raises:
        AssertionError: It does not, for one of our means.
    """
    asked = prompts(CASE, PROMPTS, shape.vocabulary, seed=3)
    judge: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    end_after(judge, shape, max_new_tokens / 2)
    options: dict[str, Any] = {"dtype": dtype, "max_new_tokens": max_new_tokens}
    expected = _means(judge, asked, Generate(shape, directory, CASE, **options)(asked, **PLAIN))
    found = _differences(_means(judge, asked, Ours(shape, directory, CASE, **options)(asked)), expected)
    for name, one in found.items():
        assert one["low"] <= 0 <= one["high"], f"{name} is not that of generate: {one}"
    told: dict[str, Any] = {"ours": found}
    try:
        paged = GenerateBatch(shape, directory, CASE, **options)(asked, **PAGED)
        told["generate_batch"] = _differences(_means(judge, asked, paged), expected)
    except Exception as error:
        told["generate_batch"] = {"error": f"{type(error).__name__}: {error}"}
    if vllm.executable():
        with Vllm(shape, directory, CASE, **options) as peer:
            told["vllm"] = _differences(_means(judge, asked, peer(asked)), expected)
    return told


def _means(judge: Any, asked: list[list[int]], answers: Answers) -> dict[str, np.ndarray]:
    """Return one number per prompt.

    The end token, which is as likely everywhere, is in the lengths and not in the log-probability.
    """
    logps, counts = [], []
    for prompt, several in zip(asked, answers, strict=True):
        found = [
            row[: len(answer) - (answer[-1] == EOS)]
            for row, answer in zip(_logps(judge, prompt, several), several, strict=True)
        ]
        logps.append(float(torch.cat(found).double().mean()))
        counts.append([len(answer) for answer in several])
    return {
        "log-probability of a token": np.array(logps),
        "tokens of an answer": np.mean(counts, axis=1),
        "share that stopped": np.mean([[answer[-1] == EOS for answer in several] for several in answers], axis=1),
    }


@torch.inference_mode()
def _logps(judge: Any, prompt: list[int], answers: list[list[int]]) -> torch.Tensor:
    """Return the responses to one prompt as (responses, longest), padded on the right, where nothing attends."""
    longest = max(map(len, answers))
    said = torch.tensor([answer + [PAD] * (longest - len(answer)) for answer in answers])
    ids = torch.cat([torch.tensor([prompt] * len(answers)), said], dim=1)
    logits: torch.Tensor = judge(input_ids=ids, logits_to_keep=longest + 1).logits[:, :-1]
    return logits.log_softmax(dim=2).gather(2, said[:, :, None])[:, :, 0]


def _differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    told = {}
    for name, values in found.items():
        apart = values - expected[name]
        reach = float(stats.t.ppf(0.5 + CERTAINTY / 2, len(apart) - 1) * stats.sem(apart))
        told[name] = {
            "mean": float(values.mean()),
            "generate's mean": float(expected[name].mean()),
            "low": float(apart.mean()) - reach,
            "high": float(apart.mean()) + reach,
            "prompts": len(apart),
        }
    return told
