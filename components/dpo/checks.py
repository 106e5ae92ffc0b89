"""Check a training before it is published.

Its first loss must be as expected, and its saved weights, loaded again, must score and answer as the trained ones did.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from components.dpo.batches import Pair
from components.dpo.objective import PAIR_LOSS, Objective
from components.dpo.policy import begins_elsewhere
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models.loading import load_policy
from components.records import ModelRef, TrainRequest
from components.scoring.response_logps import response_logps

LOGPS_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
LEAD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Two tokens whose logits are closer than this may change places between two ways of computing them."""
MOST_TOKENS = 8


class Probe(NamedTuple):
    """Scores and an answer of the trained weights on a few pairs, before they are saved."""

    pairs: list[Pair]
    logps: torch.Tensor
    """Log-probability of each pair's answer (its chosen one, or the only one), (pairs,)."""
    prompt: list[int]
    """The shortest of the pairs' prompts."""
    tokens: list[int]
    """Greedy answer to it."""
    leads: list[float]
    """Lead of each token's logit over the next best."""


def probe_trained(engine: Any, pairs: list[Pair], pad_id: int, *, max_tokens: int) -> Probe:
    """Score pairs and answer a prompt with the weights in the engine; every rank must call it with the same pairs."""
    engine.eval()
    logps = response_logps(engine, pad_id, [pair.prompt for pair in pairs], [pair.answer for pair in pairs])
    prompt = min((pair.prompt for pair in pairs), key=len)
    return Probe(pairs, logps, prompt, *_greedy(engine, prompt, min(MOST_TOKENS, max_tokens)))


@torch.no_grad()
def _greedy(engine: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Decode greedily with a fixed number of forwards, so that ranks that share the weights stay in step."""
    tokens: list[int] = []
    leads: list[float] = []
    for _ in range(count):
        logits = (
            engine(input_ids=torch.tensor([prompt + tokens], device=engine.device), use_cache=False)
            .logits[0, -1]
            .float()
        )
        best = logits.topk(2)
        tokens.append(int(best.indices[0]))
        leads.append(float(best.values[0] - best.values[1]))
    return tokens, leads


def check_reloaded(
    trained: ModelRef, probe: Probe, pad_id: int, *, dtype: torch.dtype, device: torch.device, quantization: Any
) -> None:
    """Load the saved weights, score the probe's pairs and answer its prompt with the sampler.

    Raises:
        RuntimeError: They score or answer differently from the trained weights.
    """
    model = load_policy(trained, dtype=dtype, device=device, quantization=quantization)
    prompts = [pair.prompt for pair in probe.pairs]
    again = response_logps(model, pad_id, prompts, [pair.answer for pair in probe.pairs])
    worst = float((again - probe.logps).abs().max())
    if not worst <= LOGPS_TOLERANCE[dtype] * max(1.0, float(probe.logps.abs().max()) / 100):
        raise RuntimeError(
            f"the saved weights score pairs differently from the trained ones (by {worst:.4f} nats), so they are "
            f"incomplete"
        )
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=1, max_new_tokens=len(probe.tokens), stop_ids=frozenset())
    (said,) = sample(model, [probe.prompt], seeds=[[0]], law=law, pad_id=pad_id, batch_size=1, on_batch=lambda _: None)
    for place, (token, lead) in enumerate(zip(probe.tokens, probe.leads, strict=True)):
        if lead <= LEAD_TOLERANCE[dtype]:
            return
        if said.token_ids[place] != token:
            raise RuntimeError(
                f"the saved weights answer differently from the trained ones (token {place + 1} is "
                f"{said.token_ids[place]} instead of {token}), so they are incomplete"
            )


LN2_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class FirstLoss:
    """Check that the first loss is what it must be if policy and reference are the same weights."""

    def __init__(self, request: TrainRequest, objective: Objective, dtype: torch.dtype) -> None:
        self.same_weights = request.policy.digest == request.reference.digest and not begins_elsewhere(request)
        self.objective, self.tolerance = objective, LN2_TOLERANCE[dtype]
        self.applied = False

    def __call__(self, means: Mapping[str, float], pairs: list[int]) -> None:
        """Compare the loss of the first step with the expected one.

        Raises:
            RuntimeError: It differs, so the reference's log-probabilities are not this policy's.
        """
        expected = self.objective.expected_first_loss(pairs) if self.same_weights else None
        if expected is None:
            return
        loss = means[PAIR_LOSS]
        if abs(loss - expected) > self.tolerance * max(1.0, abs(expected) / math.log(2)):
            raise RuntimeError(
                f"the first loss is {loss:.6f} instead of {expected:.6f}, although policy and reference have the "
                f"same digest: "
                "the reference log-probabilities are not this policy's"
            )
        self.applied = True
