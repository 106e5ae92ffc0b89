"""Whether a model can score packed rows exactly, and its forward over one: found out by trying, once a model."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from components.adapters import num_virtual_tokens
from components.cpu_linear import OneDnnLinear
from components.dpo.packed.attention import NAME, CannotPack
from components.dpo.packed.head import column_logps
from components.dpo.packed.last_layer import only_what_is_read
from components.dpo.packed.layout import Packed
from components.padding import left_padding_is_exact

SENT = (1234.0, -567.0)
"""What a trial puts in the place of the head's output: a cap or a scale behind the head would change it."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Nats by which a token's log-probability may differ between the packed and the plain forward in a trial."""
PROMPTS = ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (3, 1), (3, 1), (3, 1))
RESPONSES = ((6, 7), (5, 4, 3, 2), (4,), (2, 2, 6), (7, 1))

log = logging.getLogger(__name__)
Plain = Callable[[Any, list[list[int]], list[list[int]]], torch.Tensor]
"""Takes a model, prompts and responses; gives log-probabilities of the response tokens, row by row."""
_known: "WeakKeyDictionary[torch.nn.Module, int]" = WeakKeyDictionary()


def longest_packed(model: Any, plain: Plain) -> int:
    """Tokens of the longest prompt and response that the model scores exactly in a packed row; 0 if it does not, which the log says.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
        plain: The padded forward.
    """
    base = _base(model)
    if num_virtual_tokens(model):
        # They come and go with an adapter, and the base beneath may be packed without them.
        return 0
    if base not in _known:
        _known[base], reason = _tried(model, base, plain)
        if reason:
            log.warning("%s: answers are scored in padded batches, which is exact and slower", reason)
    return _known[base]


def packed_logps(model: Any, layout: Packed, columns: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of columns of the vocabulary where the layout's response tokens are predicted.

    Args:
        model: As of `longest_packed`, which was not 0.
        layout: What is scored.
        columns: (response tokens, k) token ids.

    Returns:
        (response tokens, k), fp32, in nats.
    """
    head = _base(model).get_output_embeddings()

    def logps(hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.squeeze(0).index_select(0, layout.predicting)
        return column_logps(rows, head.weight, head.bias, columns).unsqueeze(0)

    return _forward(model, head, layout, logps).squeeze(0)


def _forward(model: Any, head: torch.nn.Module, layout: Packed, in_its_place: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The model's forward with something else in the place of its head; where weights are sharded, the head's are there for it."""
    with _replaced(head, in_its_place), only_what_is_read(_base(model), layout):
        output = model(
            input_ids=layout.input_ids,
            position_ids=layout.position_ids,
            # Four dimensions: transformers makes none of its own, and the attention does not read it.
            attention_mask=torch.ones(1, 1, 1, 1, device=layout.input_ids.device),
            use_cache=False,
            packed=layout,
        )
    scored: torch.Tensor = output.logits
    return scored


@contextlib.contextmanager
def _replaced(head: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def _base(model: Any) -> Any:
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def _tried(model: Any, base: Any, plain: Plain) -> tuple[int, str]:
    """The longest row, and why there is none."""
    name = type(base).__name__
    head = base.get_output_embeddings()
    if not left_padding_is_exact(model):
        return 0, f"{name} has more than plain attention"
    if type(head) not in (torch.nn.Linear, OneDnnLinear):
        return 0, f"{name} has a head of type {type(head).__name__}"
    if base.config._attn_implementation not in ("sdpa", NAME):
        return 0, f"{name} takes {base.config._attn_implementation} attention"
    if base.dtype not in TOLERANCE:
        return 0, f"{name} computes in {base.dtype}"
    before = base.config._attn_implementation
    prompts, responses = [list(prompt) for prompt in PROMPTS], [list(response) for response in RESPONSES]
    expected = plain(model, prompts, responses)
    base.set_attn_implementation(NAME)
    try:
        device = expected.device
        layout = Packed(prompts, responses, device)
        sent = torch.tensor([[SENT]], device=device, dtype=torch.float32)
        if not torch.equal(_forward(model, head, layout, lambda _: sent.clone()), sent):
            raise CannotPack("something between its head and its logits")
        columns = torch.tensor([token for response in responses for token in response], device=device)
        gap = float((packed_logps(model, layout, columns.unsqueeze(1)).squeeze(1) - expected).abs().max())
        if not gap <= TOLERANCE[base.dtype]:
            raise CannotPack(f"a token's log-probability is off by {gap:.3g} nats in a packed row")
    except (CannotPack, TypeError, ImportError, RuntimeError) as error:
        # The model, this torch or this device has no way to compute it.
        base.set_attn_implementation(before)
        return 0, f"{name} cannot be packed: {error}"
    return _shortest_window(base), ""


def _shortest_window(base: Any) -> int:
    from transformers import DynamicCache

    layers = DynamicCache(config=base.config).layers
    return min((layer.sliding_window for layer in layers if layer.is_sliding), default=2**31)
