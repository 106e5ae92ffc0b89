"""Train without noise: a policy in training must compute the same as the policy that samples and is measured.

Dropout, layer drop, router jitter and sampled experts differ in name and in kind (modules, numbers, configuration), and
some of these numbers also shape a model that makes no noise. They have in common that models use them in training mode
only. So a policy is trained in evaluation mode, and a trial shows whether it computes the same twice.
"""

from collections.abc import Callable
from typing import Any

import torch

from components.models.adapters import unwrapped
from components.models.trial_tokens import trial_tokens

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference of two forwards in units of the logits' spread: an accelerator may add in another order."""
TRIAL_LENGTH = 24
Trace = list[tuple[str, str, list[torch.Tensor]]]
"""What a forward passed through: (module, `input` or `output`, tensors), in the order of the computation."""


def recompute_activations(model: Any) -> None:
    """Make the layers of a model drop their activations, and compute them again in the backward pass.

    A layer does so in training mode only. What it computes is computed in evaluation mode.
    """
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    for layer in _recomputing(model):
        layer._gradient_checkpointing_func = _in_evaluation_mode(layer, layer._gradient_checkpointing_func)


def prepare_training(model: Any) -> None:
    """Put a model, or an engine around one, into the mode in which it is trained.

    It is evaluation mode, but for what decides that activations are computed again (see `recompute_activations`).
    """
    model.eval()
    for module in _recomputing(model):
        module.training = True


def refuse_noise(model: Any) -> None:
    """Check that a model computes the same twice in the mode in which it is trained; leave it in evaluation mode.

    If weights are sharded, every rank must call it.

    Raises:
        ValueError: It does not; the message names the module that makes the noise.
    """
    prepare_training(model)
    (row,) = trial_tokens(unwrapped(model), [TRIAL_LENGTH])
    ids = torch.tensor([row], device=next(model.parameters()).device)
    first, second = _logits(model, ids), _logits(model, ids)
    worst = float((first - second).abs().max())
    if not worst <= TOLERANCE.get(unwrapped(model).dtype, 0.0) * float(first.std()):
        raise ValueError(
            f"the policy is random in training: its logits for the same tokens differ by {worst:.2g}, because of "
            f"{_source(_trace(model, ids), _trace(model, ids))}. Switch its noise off in the model's config.json"
        )
    model.eval()


def _recomputing(model: Any) -> list[Any]:
    """Return the layers that compute their activations again; in older models, the stacks around such layers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    flagged = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    return [module for module in flagged if isinstance(module, GradientCheckpointingLayer)] or flagged


def _in_evaluation_mode(layer: Any, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    def checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def quiet_forward(*inputs: Any, **named: Any) -> Any:
            layer.training = False
            try:
                return forward(*inputs, **named)
            finally:
                layer.training = True

        return checkpoint(quiet_forward, *args, **kwargs)

    return checkpointed


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _trace(model: Any, ids: torch.Tensor) -> Trace:
    trace: Trace = []
    handles = []
    for name, module in unwrapped(model).named_modules():
        label = f"{type(module).__name__} {name}".strip()

        def enter(_: Any, args: Any, kwargs: Any, label: str = label) -> None:
            trace.append((label, "input", _copies([*args, *kwargs.values()])))

        def leave(_: Any, args: Any, output: Any, label: str = label) -> None:
            trace.append((label, "output", _copies(output if isinstance(output, tuple | list) else [output])))

        handles += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
    _logits(model, ids)
    for handle in handles:
        handle.remove()
    return trace


def _copies(values: Any) -> list[torch.Tensor]:
    return [value.detach().clone() for value in values if isinstance(value, torch.Tensor)]


def _source(first: Trace, second: Trace) -> str:
    """Return the module in which two forwards part.

    If they part in a module's input, that is the module around it.
    """
    around: list[str] = []
    for (label, place, values), (other, _, others) in zip(first, second, strict=False):
        if label != other or not all(map(torch.equal, values, others)):
            return label if place == "output" else around[-1] if around else label
        if place == "input":
            around.append(label)
        else:
            around.pop()
    return "a part outside its modules"
