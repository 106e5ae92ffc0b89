"""The gate before any timing.

Log-probabilities, loss and gradients of our step against a plain one, and against TRL's own error.

The plain step is fp32 and eager: rows padded, attention by products and a mask, logits of all positions, sums in fp64.
Nothing of ours is in it.
"""

from collections.abc import Callable
from typing import Any

import torch
from ours import Ours
from shapes import CPU, Shape, Triple

from components.dpo.objective import StepValues

LIMITS = {
    False: {"logps": 1e-3, "loss": 1e-5, "gradient": 1e-4},
    True: {"logps_share": 5e-3, "loss": 2e-2, "gradient": 3e-2},
}
"""For fp32 and for bf16: nats, or a share of the log-probability; relative error of the loss; relative L2 error of the
worst parameter's gradient. In bf16 that must not be 1.5 times TRL's either."""
BETA = 0.1


def plain_step(
    shape: Shape, pairs: list[Triple], dtype: torch.dtype
) -> tuple[torch.Tensor, float, dict[str, torch.Tensor]]:
    """Return the plain step's log-probabilities (2, pairs), loss and gradients.

    Weights are rounded to `dtype`; the computation is in fp32.
    """
    model = shape.build(dtype).float()
    model.set_attn_implementation("eager")
    rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), shape.pad)
    mask, answers = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end], mask[row, :end] = torch.tensor(prompt + answer), 1
        answers[row, len(prompt) : end] = True

    def logps() -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        found = logits.log_softmax(dim=2).gather(2, ids[:, 1:, None]).squeeze(2)
        return (found.double() * answers[:, 1:]).sum(dim=1).view(2, len(pairs))

    policy = logps()
    reference = policy.detach()
    margins = BETA * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    loss.backward()
    return policy.detach(), float(loss), {name: weight.grad for name, weight in model.named_parameters()}


def our_step(
    shape: Shape, pairs: list[Triple], dtype: torch.dtype, max_tokens: int, make: Callable[..., Ours]
) -> tuple[float, dict[str, torch.Tensor], torch.Tensor]:
    """Return loss, gradients and reference log-probabilities of our step."""
    ours = make(shape, pairs, dtype=dtype, pairs_per_step=len(pairs), max_tokens=max_tokens)
    reference = ours.score(list(range(len(pairs))))
    model, loss = ours.model, 0.0
    model.zero_grad()
    for slots in ours.layout.micro_batches(range(len(pairs))):
        result = ours.objective.micro_batch(model, slots, StepValues())
        result.loss.backward()
        loss += float(result.loss)
    return (
        loss,
        {name: weight.grad.float().cpu() for name, weight in model.named_parameters()},
        torch.stack([reference.chosen, reference.rejected]),
    )


def trl_gradients(
    shape: Shape,
    pairs: list[Triple],
    longest: int,
    device: torch.device,
    weights: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Return the gradients of TRL's own loss under its bf16 autocast."""
    from peers import Peer

    trainer: Any = Peer(
        shape,
        pairs,
        bf16=True,
        pairs_per_step=len(pairs),
        longest=longest,
        tuned=None,
        weights=weights,
        device=device,
    ).trainer
    batch = next(iter(trainer.get_train_dataloader()))
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return {
        name: weight.grad.float().cpu()
        for name, weight in trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    }


def _error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    return max(float((found[name] - gradient).norm() / gradient.norm()) for name, gradient in expected.items())


def exactness(shape: Shape, pairs: list[Triple], *, bf16: bool, make: Callable[..., Ours] = Ours) -> dict[str, float]:
    """Return how far the step of `make`'s result is from the plain one.

    Raises:
        AssertionError: Further than `LIMITS` allow.
    """
    dtype, limits = (torch.bfloat16 if bf16 else torch.float32), LIMITS[bf16]
    logps, loss, gradients = plain_step(shape, pairs, dtype)
    found: dict[str, float] = {}
    everything = sum(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
    for name, max_tokens in (("one pack", everything), ("many packs", everything // 3)):
        own_loss, own, scored = our_step(shape, pairs, dtype, max_tokens, make)
        apart = (scored.double() - logps).abs()
        found |= {
            f"logps, {name}": float(apart.max()),
            f"logps share, {name}": float((apart / logps.abs()).max()),
            f"loss, {name}": abs(own_loss - loss) / loss,
            f"gradient, {name}": _error(own, gradients),
        }
        assert found[f"loss, {name}"] <= limits["loss"], found
        assert found[f"gradient, {name}"] <= limits["gradient"], found
        assert found[f"logps, {name}"] <= limits.get("logps", 1e9), found
        assert found[f"logps share, {name}"] <= limits.get("logps_share", 1.0), found
    assert all(pair.chosen[-1] == pair.rejected[-1] == shape.end for pair in pairs)
    return found


def _error_of_all(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    squares = [(found[name] - gradient).square().sum() for name, gradient in expected.items()]
    return float((sum(squares) / sum(gradient.square().sum() for gradient in expected.values())) ** 0.5)


def real_exactness(model: Any, pairs: list[Triple], longest: int) -> dict[str, float]:
    """Return how far our step is from the plain one for a trained model.

    In bf16 such a model rounds more than made-up weights do, however it is computed. So the step must be within
    `LIMITS` in fp32, and in bf16 as near as TRL's with weights of bf16.

    Raises:
        AssertionError: It is not.
    """
    found = {f"{name}, fp32": value for name, value in exactness(model, pairs, bf16=False).items()}
    exact = plain_step(model, pairs, torch.bfloat16)[2]
    tokens = sum(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs)
    own = our_step(model, pairs, torch.bfloat16, tokens, Ours)[1]
    found["all gradients, bf16"] = _error_of_all(own, exact)
    for weights in (torch.bfloat16, torch.float32):
        name = f"all gradients, TRL, weights in {str(weights).removeprefix('torch.')}"
        found[name] = _error_of_all(trl_gradients(model, pairs, longest, CPU, weights), exact)
    assert found["all gradients, bf16"] <= 1.5 * found["all gradients, TRL, weights in bfloat16"], found
    return found


def error_of_trl(shape: Shape, pairs: list[Triple], longest: int, device: torch.device = CPU) -> float:
    """Return how far TRL's own gradients are from the plain step's in bf16."""
    return _error(trl_gradients(shape, pairs, longest, device), plain_step(shape, pairs, torch.bfloat16)[2])
