"""Decoding on a CPU with each prompt's keys and values held once for all its responses, and the attention that reads them so.

A response's query sees its prompt and its own tokens. The queries of one prompt's responses meet its keys in one
product of matrices, each response's own keys in another, and the two are merged by their log-sum-exp: exact (Hydragen,
arXiv 2402.05099). A flash kernel would read the prompt once for every response and head. Scores and sums are fp32,
whatever the precision of the model.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer

from components.generation.cache import Compaction, CopiedCache, plan_closing
from components.generation.prefill import Prefilled, prefill

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "ratchet_shared_prompt"
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Difference of logits, over their standard deviation, between this attention and the model's own in a trial."""
LIKE_LENGTH = 0.5
"""Share of a run's longest prompt that its shortest has at least: each run is a product of its own, and reads its
padding."""
PROMPTS = ((1, 2, 3, 4, 5), (3, 1))
_HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "is_causal",
        "sliding_window",
    }
)

log = logging.getLogger(__name__)
_known: "WeakKeyDictionary[torch.nn.Module, bool]" = WeakKeyDictionary()


def decoder(begun: Prefilled, *, samples: int, room: int) -> "Shared | CopiedCache":
    """What decodes responses to prefilled prompts.

    With shared prompts where the model does so exactly, else from a forked cache.
    """
    base = _base(begun.model)
    if base not in _known:
        reason = _reason_against(base)
        _known[base] = not reason
        if reason:
            log.info("%s: every response is sampled with a copy of its prompt's keys and values", reason)
    return (Shared if _known[base] else CopiedCache)(begun, samples=samples, room=room)


def _reason_against(base: Any) -> str:
    """Why a model's responses cannot share their prompts, found out by trying; empty if they can."""
    name = type(base).__name__
    if base.device.type != "cpu":
        return f"{name} is on {base.device.type}"
    if base.config._attn_implementation == "eager" or base.dtype not in TOLERANCE:
        return f"{name} takes eager attention or computes in {base.dtype}"
    if {type(layer) for layer in DynamicCache(config=base.config).layers} - {DynamicLayer}:
        return f"{name} has layers with a sliding window"
    try:
        expected, found = (_trial(base, kind) for kind in (CopiedCache, Shared))
    except (CannotShare, TypeError, AttributeError, ValueError, RuntimeError) as error:
        return f"{name} cannot share prompts: {error}"
    gap = float((found - expected).abs().max() / expected.std())
    return (
        ""
        if gap <= TOLERANCE[base.dtype]
        else f"{name} gives logits that are off by {gap:.3g} of their deviation with shared prompts"
    )


@torch.inference_mode()
def _trial(base: Any, kind: "type[Shared | CopiedCache]") -> torch.Tensor:
    """Logits of two steps; between them a response ends."""
    begun = prefill(base, [list(prompt) for prompt in PROMPTS], pad_id=0)
    state = kind(begun, samples=2, room=2)
    positions = begun.mask.sum(dim=1).repeat_interleave(2)[:, None]
    tokens = torch.tensor([4, 5, 6, 7])
    first = state.step(tokens, positions)
    closing = plan_closing([True, True, False, True], tokens.device)
    state.close_ranks(closing)
    return torch.cat([first, state.step(closing.apply(tokens), closing.apply(positions) + 1)])


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextlib.contextmanager
def _attention_of(base: "PreTrainedModel", name: str) -> Iterator[None]:
    before = base.config._attn_implementation
    base.set_attn_implementation(name)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


class CannotShare(Exception):
    """A model's attention has something that this one does not compute."""


class Run:
    """Neighbouring prompts of about one length, whose keys are as wide as the longest of them.

    Args:
        first: Place of the first one among all prompts.
        mask: (prompts, width), False where it is padding.
    """

    def __init__(self, first: int, mask: torch.Tensor) -> None:
        self.first = first
        self.count, self.width = mask.shape
        """Prompts that have responses left, and positions of the longest prompt."""
        padded = not bool(mask.all())
        self.hidden = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None, None] if padded else None
        """What is added to scores, (prompts, 1, 1, 1, width)."""

    @property
    def places(self) -> slice:
        """Places of the prompts that have responses left."""
        return slice(self.first, self.first + self.count)

    def close_ranks(self, closing: Compaction) -> None:
        """Drops the prompts that have no responses left."""
        self.count = closing.kept
        if self.hidden is not None:
            self.hidden = closing.apply(self.hidden)


def _runs(mask: torch.Tensor) -> list[Run]:
    """The prompts in runs in which none is shorter than a share of the longest one."""
    # A prefix stands before the padding: what is in front of the first position that counts is left out, and no more.
    widths = (mask.shape[1] - mask.int().argmax(dim=1)).tolist()
    firsts, longest = [0], 0
    for place, width in enumerate(widths):
        longest = max(longest, width)
        if width < LIKE_LENGTH * longest:
            firsts.append(place)
            longest = width
    ends = [*firsts[1:], len(widths)]
    return [Run(first, mask[first:end, -max(widths[first:end]) :]) for first, end in zip(firsts, ends, strict=True)]


class Shared:
    """What decodes a batch of responses: one `SharedLayer` a layer, and which response is of which prompt.

    Args:
        begun: The prefilled prompts; the layers of its cache are replaced.
        samples: Responses of each prompt, next to each other.
        room: Tokens that a response may take.
    """

    def __init__(self, begun: Prefilled, *, samples: int, room: int) -> None:
        self.model, self.cache, self.samples, self.num_prompts = begun.model, begun.cache, samples, len(begun.mask)
        self.runs = _runs(begun.mask)
        self.slots = torch.arange(self.num_prompts * samples)
        """For each response, the place of its prompt times `samples`, plus its number."""
        self.layers = [SharedLayer(layer, self.runs, samples, room) for layer in self.cache.layers]
        self.cache.layers = list(self.layers)

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (responses, vocabulary) after one token more of each response; `positions` is (responses, 1)."""
        with _attention_of(_base(self.model), NAME):
            output = self.model(
                input_ids=tokens[:, None],
                position_ids=positions,
                # Four dimensions: transformers makes none of its own, and the attention does not read it.
                attention_mask=torch.ones(1, 1, 1, 1),
                past_key_values=self.cache,
                use_cache=True,
                shared=self,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def close_ranks(self, closing: Compaction) -> None:
        """Drops the finished responses, and the prompts that have none left."""
        self.slots = closing.apply(self.slots)
        places, numbers = self.slots // self.samples, self.slots % self.samples
        running = torch.zeros(self.num_prompts, dtype=torch.bool).index_fill_(0, places, True)
        of_runs: list[Compaction] = []
        now = torch.arange(self.num_prompts)
        for run in self.runs:
            of_run = plan_closing(running[run.places].tolist(), self.slots.device)
            now[run.first + of_run.sources] = run.first + of_run.slots
            run.close_ranks(of_run)
            of_runs.append(of_run)
        self.slots = now[places] * self.samples + numbers
        for layer in self.layers:
            layer.close_ranks(closing, of_runs)

    def attend(self, layer: "SharedLayer", query: torch.Tensor, scale: float) -> torch.Tensor:
        """Attention of queries (responses, heads, 1, head size) over their prompts and their own tokens.

        Shaped as the queries.
        """
        rows, heads, _, size = query.shape
        kept = layer.buffers[0].shape[1]
        groups = heads // kept
        own = (query.float() * scale).view(rows, kept, groups, size)
        # Responses that are done leave empty slots beside those of the same prompt.
        slots = own.new_zeros(self.num_prompts * self.samples, kept, groups, size)
        slots[self.slots] = own
        of_prompts = slots.view(self.num_prompts, self.samples, kept, groups, size).transpose(1, 2)
        parts = [own.new_empty(*of_prompts.shape[:4], last) for last in (1, 1, size)]
        for run, (keys, values) in zip(self.runs, layer.prompts, strict=True):
            if run.count:
                scores = torch.matmul(of_prompts[run.places].flatten(2, 3), keys.transpose(2, 3)).unflatten(
                    2, (self.samples, groups)
                )
                if run.hidden is not None:
                    scores += run.hidden
                for part, of_run in zip(parts, _summed(scores, values), strict=True):
                    part[run.places] = of_run
        over_prompt = [part.transpose(1, 2).flatten(0, 1)[self.slots] for part in parts]
        over_own = _summed(torch.matmul(own, layer.own_keys.transpose(2, 3)).unsqueeze(2), layer.own_values)
        return _merged(over_prompt, [part.squeeze(2) for part in over_own]).view(rows, heads, 1, size)


def _summed(scores: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Highest score, sum of exponentials below it (each (..., 1)), and the values weighted by them.

    Args:
        scores: (batch, key heads, samples, groups, keys); overwritten.
        values: (batch, key heads, keys, head size).
    """
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    weighted = torch.matmul(weights.flatten(2, 3), values).unflatten(2, weights.shape[2:4])
    return highest, weights.sum(dim=-1, keepdim=True), weighted


def _merged(one: "list[torch.Tensor]", other: "list[torch.Tensor]") -> torch.Tensor:
    highest = torch.maximum(one[0], other[0])
    shares = [(part[0] - highest).exp_() for part in (one, other)]
    return (shares[0] * one[2] + shares[1] * other[2]) / (shares[0] * one[1] + shares[1] * other[1])


class SharedLayer(DynamicLayer):
    """One layer's keys and values in fp32.

    The prompts' run by run, (prompts, key heads, width, head size), and the responses' own.
    """

    def __init__(self, layer: Any, runs: list[Run], samples: int, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = torch.float32, layer.device, True
        prompts, heads, self.width, size = layer.keys.shape
        keys, values = layer.keys.float(), layer.values.float()
        self.prompts = [
            tuple(states[run.places, :, -run.width :].contiguous() for states in (keys, values)) for run in runs
        ]
        """Keys and values of each run's prompts."""
        layer.keys = layer.values = None
        self.buffers = [keys.new_empty(prompts * samples, heads, room, size) for _ in range(2)]
        self.filled = 0
        self.unread = False
        """Whether states came in that no attention has read."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the states of each response's next token.

        Returns them as they are, since `Shared.attend` reads this layer itself.
        """
        if self.unread:
            raise CannotShare("attention that is not transformers' interface")
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.filled : self.filled + 1] = states
        self.filled += 1
        self.unread = True
        return key_states, value_states

    @property
    def own_keys(self) -> torch.Tensor:
        """(responses, key heads, tokens so far, head size)."""
        return self.buffers[0][:, :, : self.filled]

    @property
    def own_values(self) -> torch.Tensor:
        """As the keys."""
        return self.buffers[1][:, :, : self.filled]

    def get_seq_length(self) -> int:
        """Positions seen so far."""
        return self.width + self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of positions that the next update makes visible, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def close_ranks(self, closing: Compaction, of_runs: list[Compaction]) -> None:
        """Drops the finished responses, and of each run the prompts that have none left."""
        for place, buffer in enumerate(self.buffers):
            closing.apply(buffer[:, :, : self.filled])
            self.buffers[place] = buffer[: closing.kept]
        self.prompts = [
            (of_run.apply(keys), of_run.apply(values))
            for of_run, (keys, values) in zip(of_runs, self.prompts, strict=True)
        ]


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared: Shared | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer, as its own attention functions are called.

    Reads keys and values from `shared`.

    Returns:
        (responses, 1, heads, head size), and no weights.

    Raises:
        CannotShare: The model asks for something that this attention does not do.
    """
    odd = sorted(name for name, given in rest.items() if given is not None and name not in _HARMLESS)
    if shared is None or dropout or odd:
        raise CannotShare(f"its attention has {', '.join(odd) or 'arguments of its own'}")
    layer = shared.layers[int(module.layer_idx)]  # type: ignore[arg-type]
    layer.unread = False
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(layer, query, scale).to(query.dtype).transpose(1, 2), None


AttentionInterface.register(NAME, attention)
