"""Decode, in parts, rows whose positions change their frequencies on the way (long and dynamic RoPE).

Keys of earlier tokens were rotated with other frequencies then, so each part begins with a prefill of its own. So every
token has the law of the model's forward on what stands before it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from components.generation.sampling_params import Ending, SamplingParams
from components.models.adapters import num_virtual_tokens
from components.models.rotary import steady_tokens

Decode = Callable[[Any, list[list[int]], np.ndarray, SamplingParams, int], list[Ending]]
"""(model, prompts, uniforms (rows, max_new_tokens) with the rows of a prompt adjacent, law, pad_id) -> endings."""


def decode_steadily(
    decode: Decode, model: Any, prompts: list[list[int]], uniforms: np.ndarray, law: SamplingParams, pad_id: int
) -> list[Ending]:
    """Decode one batch; prompts of one length, whose positions change at the same token, together."""
    samples, virtual = len(uniforms) // len(prompts), num_virtual_tokens(model)
    tokens: list[list[int]] = [[] for _ in uniforms]
    reasons: list[Any] = ["length"] * len(uniforms)
    waiting = _groups(model, prompts, virtual=virtual, most=law.max_new_tokens)
    todo = [
        (0, samples, [place * samples + number for place in group for number in range(samples)]) for group in waiting
    ]
    while todo:
        done, per_prompt, rows = todo.pop()
        starts = [prompts[row // samples] + tokens[row] for row in rows[::per_prompt]]
        part = min(steady_tokens(model, length + virtual) for length in {len(start) for start in starts})
        part = min(part, law.max_new_tokens - done)
        endings = decode(model, starts, uniforms[rows, done : done + part], law._replace(max_new_tokens=part), pad_id)
        for row, (more, reason) in zip(rows, endings, strict=True):
            tokens[row] = tokens[row] + more
            # A stop string may begin in one part and end in the next.
            spans = reason == "length" and done and law.stops is not None and law.stops.cut(tokens[row]) is not None
            reasons[row] = "stop" if spans else reason
        running = [row for row in rows if reasons[row] == "length"]
        if running and done + part < law.max_new_tokens:
            todo.append((done + part, 1, running))
    return list(zip(tokens, reasons, strict=True))


def _groups(model: Any, prompts: list[list[int]], *, virtual: int, most: int) -> list[list[int]]:
    """Return the places of prompts that are decoded together: those that never change, and others by their length."""
    steady = {length: steady_tokens(model, length + virtual) >= most for length in {len(prompt) for prompt in prompts}}
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(0 if steady[len(prompt)] else len(prompt), []).append(place)
    return list(groups.values())
