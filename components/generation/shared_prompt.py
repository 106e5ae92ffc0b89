"""Decoding on a CPU that holds each prompt's keys and values once for all its responses, and the attention for it.

A response's query sees its prompt and its own tokens. The queries of all responses to a prompt meet its keys in one
matrix product, and each response's own keys in another. The two are merged by their log-sum-exp, which is exact
(Hydragen, arXiv 2402.05099). A flash kernel would read the prompt once for every response and head. Scores and sums are
fp32, whatever the precision of the model.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer

from components.generation.cache import Compaction, plan_compaction
from components.generation.prefill import Prefilled
from components.models.adapters import unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "ratchet_shared_prompt"
DTYPES = (torch.float32, torch.bfloat16)
LIKE_LENGTH = 0.5
"""Shortest prompt of a run, as a share of its longest: each run is a product of its own, and reads its padding."""
_HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "is_causal",
        "sliding_window",
    }
)


def reason_against(base: Any) -> str:
    """Return what a model has that rules out shared prompts before any trial; empty if nothing does."""
    if base.config._attn_implementation == "eager" or base.dtype not in DTYPES:
        return f"uses eager attention or computes in {base.dtype}"
    if {type(layer) for layer in DynamicCache(config=base.config).layers} - {DynamicLayer}:
        return "has layers with a sliding window"
    return ""


@contextlib.contextmanager
def _attention_of(base: "PreTrainedModel", name: str) -> Iterator[None]:
    before = base.config._attn_implementation
    base.set_attn_implementation(name)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


class CannotShare(Exception):
    """A model's attention has something that this attention does not compute."""


class Run:
    """Neighbouring prompts of similar length, whose keys are as wide as the longest of them.

    Args:
        first: Place of the first one among all prompts.
        mask: (prompts, width), False at padding.
    """

    def __init__(self, first: int, mask: torch.Tensor) -> None:
        self.first = first
        self.count, self.width = mask.shape
        """Number of prompts that have responses left, and positions of the longest prompt."""
        padded = not bool(mask.all())
        self.hidden = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None, None] if padded else None
        """Added to scores, (prompts, 1, 1, 1, width): minus infinity at padding; None without padding."""

    @property
    def places(self) -> slice:
        """Places of the prompts that have responses left."""
        return slice(self.first, self.first + self.count)

    def compact(self, compaction: Compaction) -> None:
        """Drop the prompts that have no responses left."""
        self.count = compaction.num_rows
        if self.hidden is not None:
            self.hidden = compaction.apply(self.hidden)


def _runs(mask: torch.Tensor) -> list[Run]:
    """Split the prompts into runs in which none is shorter than `LIKE_LENGTH` of the longest before it."""
    # A prefix stands before the padding: only what is in front of the first position that counts is left out.
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
    """Decodes a batch of responses: holds one `SharedLayer` per layer, and the prompt of each response.

    Args:
        prefilled: The prefilled prompts; the layers of their cache are replaced.
        samples: Number of responses per prompt, adjacent in the batch.
        room: Largest number of tokens of a response.
    """

    def __init__(self, prefilled: Prefilled, *, samples: int, room: int) -> None:
        self.model, self.cache = prefilled.model, prefilled.cache
        self.samples, self.num_prompts = samples, len(prefilled.mask)
        self.runs = _runs(prefilled.mask)
        self.slots = torch.arange(self.num_prompts * samples)
        """Per response, the place of its prompt times `samples`, plus its number."""
        self.layers = [SharedLayer(layer, self.runs, samples, room) for layer in self.cache.layers]
        self.cache.layers = list(self.layers)

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return logits (responses, vocabulary) after one more token per response; `positions` is (responses, 1)."""
        with _attention_of(unwrapped(self.model), NAME):
            output = self.model(
                input_ids=tokens[:, None],
                position_ids=positions,
                # With four dimensions transformers makes no mask of its own; the attention does not read this one.
                attention_mask=torch.ones(1, 1, 1, 1),
                past_key_values=self.cache,
                use_cache=True,
                shared=self,
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def compact(self, compaction: Compaction) -> None:
        """Drop the finished responses, and the prompts that have none left."""
        self.slots = compaction.apply(self.slots)
        places, numbers = self.slots // self.samples, self.slots % self.samples
        running = torch.zeros(self.num_prompts, dtype=torch.bool).index_fill_(0, places, True)
        of_runs: list[Compaction] = []
        now = torch.arange(self.num_prompts)
        for run in self.runs:
            of_run = plan_compaction(running[run.places].tolist(), self.slots.device)
            now[run.first + of_run.sources] = run.first + of_run.slots
            run.compact(of_run)
            of_runs.append(of_run)
        self.slots = now[places] * self.samples + numbers
        for layer in self.layers:
            layer.compact(compaction, of_runs)

    def attend(self, layer: "SharedLayer", query: torch.Tensor, scale: float) -> torch.Tensor:
        """Return the attention of queries (responses, heads, 1, head size) over their prompts and their own tokens.

        The result has the shape of the queries.
        """
        rows, heads, _, size = query.shape
        key_heads = layer.buffers[0].shape[1]
        groups = heads // key_heads
        own = (query.float() * scale).view(rows, key_heads, groups, size)
        # Responses that are done leave empty slots beside those of the same prompt.
        slots = own.new_zeros(self.num_prompts * self.samples, key_heads, groups, size)
        slots[self.slots] = own
        of_prompts = slots.view(self.num_prompts, self.samples, key_heads, groups, size).transpose(1, 2)
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
    """Return the highest score, the sum of exponentials relative to it (both (..., 1)), and the values they weight.

    Args:
        scores: (batch, key heads, samples, groups, keys); overwritten.
        values: (batch, key heads, keys, head size).
    """
    highest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(highest).exp_()
    weighted = torch.matmul(weights.flatten(2, 3), values).unflatten(2, weights.shape[2:4])
    return highest, weights.sum(dim=-1, keepdim=True), weighted


def _merged(first: "list[torch.Tensor]", second: "list[torch.Tensor]") -> torch.Tensor:
    highest = torch.maximum(first[0], second[0])
    factors = [(part[0] - highest).exp_() for part in (first, second)]
    return (factors[0] * first[2] + factors[1] * second[2]) / (factors[0] * first[1] + factors[1] * second[1])


class SharedLayer(DynamicLayer):
    """One layer's keys and values in fp32.

    The prompts' states are run by run, (prompts, key heads, width, head size); the responses' own are beside them.
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
        """Whether new states were added that no attention has read."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of each response's next token.

        Returns them unchanged, since `Shared.attend` reads this layer itself.
        """
        if self.unread:
            raise CannotShare("its attention does not go through transformers' interface")
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.filled : self.filled + 1] = states
        self.filled += 1
        self.unread = True
        return key_states, value_states

    @property
    def own_keys(self) -> torch.Tensor:
        """Keys of the responses' own tokens, (responses, key heads, tokens so far, head size)."""
        return self.buffers[0][:, :, : self.filled]

    @property
    def own_values(self) -> torch.Tensor:
        """Values of the responses' own tokens, shaped as the keys."""
        return self.buffers[1][:, :, : self.filled]

    def get_seq_length(self) -> int:
        """Return the number of positions seen so far."""
        return self.width + self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of positions that the next update makes visible, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def compact(self, compaction: Compaction, of_runs: list[Compaction]) -> None:
        """Drop the finished responses, and the prompts of each run that have none left."""
        for place, buffer in enumerate(self.buffers):
            compaction.apply(buffer[:, :, : self.filled])
            self.buffers[place] = buffer[: compaction.num_rows]
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
    """Compute attention over shared prompts; transformers calls this in every layer like its own attention functions.

    Reads keys and values from `shared`.

    Returns:
        (responses, 1, heads, head size), and no weights.

    Raises:
        CannotShare: The model needs something that this attention does not compute.
    """
    odd = sorted(name for name, setting in rest.items() if setting is not None and name not in _HARMLESS)
    if shared is None or dropout or odd:
        raise CannotShare(f"its attention has {', '.join(odd) or 'arguments of its own'}")
    layer = shared.layers[int(module.layer_idx)]  # type: ignore[arg-type]
    layer.unread = False
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(layer, query, scale).to(query.dtype).transpose(1, 2), None


AttentionInterface.register(NAME, attention)
