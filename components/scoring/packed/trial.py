"""Whether a model may be scored in packed rows: each is tried once, on ordinary tokens. Knows no head."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from components.models.adapters import num_virtual_tokens
from components.models.trial_tokens import trial_tokens
from components.scoring.packed.attention import NAME, CannotPack
from components.scoring.packed.forward import unwrapped

PROMPTS = (12, 5, 1)
"""Tokens of each prompt of a trial."""
RESPONSES = ((9, 4), (1, 6, 3), (7,))
"""Tokens of each response, prompt by prompt: long and short, alone and beside others."""
DTYPES = (torch.float32, torch.bfloat16)
LOW = (torch.bfloat16, torch.float16)
NO_WINDOW = 2**31
TIMES_PADDED = 2.0
"""How far from fp32 a packed row may be in a lower precision, in units of how far the padded forward is from it.

Both are root mean squares over the same tokens. Rounding makes them of about one size (SmolLM2-135M in bf16, nine draws
of tokens: 0.8 to 1.5), while the largest errors of two equally good forwards differed by up to 2.4 times. Wrong
positions, or responses that see each other, make it 6 and more.
"""

log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """What a trial compares, for some prompts and responses."""

    plain: Callable[[], torch.Tensor]
    """What the model makes of them without packing; called before its attention is replaced."""
    packed: Callable[[], torch.Tensor]
    """The same from a packed row; raises CannotPack if it cannot be had."""
    errors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Differences of a result from an exact one, in the unit of `tolerance`."""
    tolerance: float
    """The largest difference that rounding makes in fp32."""
    off: str
    """How a difference is told, up to the number."""
    amount: str
    """A format for the number."""


MakeTrial = Callable[[list[list[int]], list[list[int]]], Trial]
"""Takes prompts and responses of equal count; raises CannotPack if a model need not be tried."""


class Packing(NamedTuple):
    """How far a model is scored in packed rows."""

    longest: int
    """Tokens of the longest prompt and response that a packed row computes exactly; 0 if none is."""
    reason: str
    """What stands against longer ones; empty if nothing does."""


_known: "WeakKeyDictionary[torch.nn.Module, Packing]" = WeakKeyDictionary()


def packing(model: Any, trial: MakeTrial) -> Packing:
    """Find out how far a model may be packed, once per model; the log says why if it may not.

    Args:
        model: A transformers model, a peft wrapper of one, or an engine around either.
        trial: What compares packed rows with others.
    """
    base = unwrapped(model)
    if num_virtual_tokens(model):
        # They come and go with an adapter, and the base beneath may be packed without them.
        return Packing(0, "virtual tokens stand before the prompts")
    if base not in _known:
        _known[base] = _tried(base, trial)
        if not _known[base].longest:
            log.warning("%s: answers are scored in padded batches, which is exact and slower", _known[base].reason)
    return _known[base]


@torch.no_grad()
def _tried(base: Any, trial: MakeTrial) -> Packing:
    name, before = type(base).__name__, base.config._attn_implementation
    if before not in ("sdpa", NAME):
        return Packing(0, f"{name} takes {before} attention")
    if base.dtype not in DTYPES:
        return Packing(0, f"{name} computes in {base.dtype}")
    window = _shortest_window(base)
    prompts, responses = _rows(base, longest=window)
    try:
        if not prompts:
            raise CannotPack(f"it has a sliding window of {window} tokens")
        made = trial(prompts, responses)
    except CannotPack as error:
        return Packing(0, f"{name} cannot be packed: {error}")
    plain = made.plain()
    try:
        _compare(base, made, plain)
    except (CannotPack, TypeError, ImportError, RuntimeError) as error:
        # The model, this torch or this device has no way to compute it.
        base.set_attn_implementation(before)
        return Packing(0, f"{name} cannot be packed: {error}")
    return Packing(window, f"{name} has a sliding window of {window} tokens" if window < NO_WINDOW else "")


def _rows(base: Any, *, longest: int) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and responses of equal count, none of them together above `longest` tokens."""
    drawn = iter(trial_tokens(base, [*PROMPTS, *(length for lengths in RESPONSES for length in lengths)]))
    prompts = [next(drawn) for _ in PROMPTS]
    rows = [(prompt, next(drawn)) for prompt, lengths in zip(prompts, RESPONSES, strict=True) for _ in lengths]
    kept = [row for row in rows if len(row[0]) + len(row[1]) <= longest]
    return [prompt for prompt, _ in kept], [response for _, response in kept]


def _compare(base: Any, trial: Trial, plain: torch.Tensor) -> None:
    """Raise CannotPack if a packed row is off by more than rounding explains."""
    if base.dtype == torch.float32:
        base.set_attn_implementation(NAME)
        worst = float(trial.errors(trial.packed(), plain).abs().max())
        if not worst <= trial.tolerance:
            raise CannotPack(f"{trial.off} {trial.amount.format(worst)} in a packed row")
        return
    # What a lower precision loses differs from model to model: a fixed bound would refuse one that rounds much, or
    # trust one that rounds little and is packed wrongly.
    with in_fp32(base):
        exact = trial.plain()
    base.set_attn_implementation(NAME)
    packed, padded = (_root_mean_square(trial.errors(found, exact)) for found in (trial.packed(), plain))
    if not packed <= max(TIMES_PADDED * padded, trial.tolerance):
        told, beside = trial.amount.format(packed), trial.amount.format(padded)
        raise CannotPack(f"{trial.off} {told} in a packed row, and {beside} in a padded one (root mean squares)")


def _root_mean_square(values: torch.Tensor) -> float:
    return float(values.float().square().mean().sqrt())


@contextlib.contextmanager
def in_fp32(base: Any) -> Iterator[None]:
    """Within it, a model of lower precision computes in fp32 with the weights that it has.

    A copy in fp32 would take twice the memory of a model that may just fit. Here the weights of one module at a time
    are widened, while it runs, which works as well in an engine that gathers sharded weights module by module.
    """
    with contextlib.ExitStack() as hooks:
        for module in base.modules():
            if isinstance(module, torch.nn.Embedding):
                # A row of the table is exact as it stands, and the table may be the largest of all weights.
                hooks.callback(module.register_forward_hook(lambda _, __, output: output.float()).remove)
            elif getattr(module, "compute_dtype", None) in LOW or _has_low(module):
                hooks.enter_context(_widened(module))
        yield


@contextlib.contextmanager
def _widened(module: torch.nn.Module) -> Iterator[None]:
    """Within it, a module takes and has fp32 whenever it is called, and what it had again afterwards."""
    kept: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def widen(
        _: torch.nn.Module, args: tuple[Any, ...], words: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for weight in module.parameters(recurse=False):
            if weight.dtype in LOW:
                kept.append((weight, weight.data))
                weight.data = weight.data.float()
        return tuple(map(_in_fp32, args)), {name: _in_fp32(value) for name, value in words.items()}

    def restore(*_: Any) -> None:
        while kept:
            weight, data = kept.pop()
            weight.data = data

    # A weight that an engine gathers is there once the engine's hooks have run, and is its own again before they let go
    # of it.
    handles = [
        module.register_forward_pre_hook(widen, with_kwargs=True),
        module.register_forward_hook(restore, prepend=True, always_call=True),
    ]
    computes_in: Any = getattr(module, "compute_dtype", None)
    if computes_in in LOW:
        # What bitsandbytes turns the input of a quantised layer into.
        vars(module)["compute_dtype"] = torch.float32
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if computes_in in LOW:
            vars(module)["compute_dtype"] = computes_in


def _has_low(module: torch.nn.Module) -> bool:
    return any(weight.dtype in LOW for weight in module.parameters(recurse=False))


def _in_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in LOW else value


def _shortest_window(base: Any) -> int:
    from transformers import DynamicCache

    layers = DynamicCache(config=base.config).layers
    return min((layer.sliding_window for layer in layers if layer.is_sliding), default=NO_WINDOW)
