"""Which way a model is sampled: the fastest whose logits are those of the model's plain forward, one row at a time.

The ways are tried once per model, on ordinary tokens, with responses of which one ends before the others.
"""

import logging
from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch

from components.generation.cache import CopiedCache, plan_compaction
from components.generation.plain import Forced, generate, without_warning_of_positions
from components.generation.prefill import prefill
from components.generation.sampling_params import NOT_FINITE
from components.generation.shared_prompt import CannotShare, Shared, reason_against
from components.models.adapters import unwrapped
from components.models.padding import reason_against_batches
from components.models.rotary import make_rows_independent
from components.models.rounding import LOW, TIMES, in_fp32, root_mean_square
from components.models.trial_tokens import trial_tokens

Way = Literal["shared prompts", "copied prompts", "transformers' loop", "one response at a time", "vllm"]
NOTES: dict[Way, str] = {
    "vllm": "vLLM samples",
    "shared prompts": "each prompt's keys and values are read once for all its responses",
    "copied prompts": "every response is sampled with a copy of its prompt's keys and values",
    "transformers' loop": "responses are sampled by transformers' own loop, which is slower",
    "one response at a time": "responses are sampled one at a time, which is much slower",
}
PROMPTS = (9, 4, 4, 1)
"""Tokens of each prompt of a trial: long and short, and two of one length, which transformers' loop takes together."""
SAMPLES, STEPS = 2, 3
RUNNING = (True, True, False, True, True, True, True, False)
"""Which of the responses still run at the last step."""
TOLERANCE = 1e-3
"""Largest difference of logits in fp32, over their standard deviation."""
BLIND_TOLERANCE = 0.1
"""The same, as a root mean square, for a model of lower precision that cannot be run in fp32."""
GROSS = 0.3
"""The same, for a way that has no other behind it."""

log = logging.getLogger(__name__)
_known: "WeakKeyDictionary[torch.nn.Module, SamplingPath]" = WeakKeyDictionary()


class SamplingPath(NamedTuple):
    """How a model's responses are sampled."""

    way: Way
    reason: str | None
    """Why no faster way is taken; None for the fastest."""

    @property
    def cache(self) -> "type[Shared | CopiedCache] | None":
        """What holds the keys and values in this project's own loop; None for transformers' loop."""
        return {"shared prompts": Shared, "copied prompts": CopiedCache}.get(self.way)  # type: ignore[return-value]


def sampling_path(model: Any) -> SamplingPath:
    """Return the way in which a model is sampled, tried once; the reason is logged.

    Args:
        model: A causal language model in evaluation mode, or a peft wrapper of one.

    Raises:
        ValueError: No way samples what the model's plain forward says.
        RuntimeError: The model's logits are not finite.
    """
    if model not in _known:
        make_rows_independent(model)
        path = _known[model] = _tried(model)
        if path.reason:
            level = logging.INFO if path.cache else logging.WARNING
            log.log(level, "%s: %s", path.reason, NOTES[path.way])
    return _known[model]


def describe_path(path: SamplingPath) -> str:
    """Return the way and the reason for it in one line."""
    note = f"{path.way} ({NOTES[path.way]})"
    return f"{note}, since {path.reason}" if path.reason else note


@torch.inference_mode()
def _tried(model: Any) -> SamplingPath:
    name = type(unwrapped(model)).__name__
    rows = _Rows(model)
    ways: dict[Way, tuple[str, Callable[[], torch.Tensor]]] = {
        "shared prompts": (reason_against(unwrapped(model)), lambda: rows.decoded(Shared)),
        "copied prompts": ("", lambda: rows.decoded(CopiedCache)),
        "transformers' loop": ("", lambda: rows.generated(together=True)),
        "one response at a time": ("", lambda: rows.generated(together=False)),
    }
    if model.device.type != "cpu":
        # Prompts are shared on a CPU only, where a flash kernel would read them once for every response.
        del ways["shared prompts"]
    against_batches = reason_against_batches(model)
    reasons: list[str] = []
    for way, (reason, logits) in ways.items():
        if "prompts" in way and against_batches:
            reason = against_batches
        # The last way is transformers' own, so only what is not rounding counts against it: a recurrent model in
        # bfloat16 rounds a step otherwise than a whole row.
        reason = reason or rows.reason_against(logits, least=GROSS if way == "one response at a time" else 0.0)
        if not reason:
            return SamplingPath(way, "; ".join(dict.fromkeys(reasons)) or None)
        reasons.append(reason if reason == against_batches else f"{name} {reason} ({way})")
    raise ValueError(f"{'; '.join(dict.fromkeys(reasons))}: sample with another engine (generation.engine), or model")


class _Rows:
    """Prompts and responses of a trial, and their logits in one way or another, each (rows, steps, vocabulary)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        lengths = [*PROMPTS, *[STEPS - 1] * (len(PROMPTS) * SAMPLES)]
        drawn = trial_tokens(unwrapped(model), lengths)
        self.prompts, self.responses = drawn[: len(PROMPTS)], drawn[len(PROMPTS) :]
        self.exact, self.tolerance = self._expected()

    def reason_against(self, logits: Callable[[], torch.Tensor], *, least: float) -> str:
        """Return why logits are not those of the plain forward; empty if they are, or if they differ by `least`."""
        try:
            errors = self._compared(logits(), self.exact)
        except (CannotShare, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
            return f"cannot be sampled so: {' '.join(str(error).split())[:200] or type(error).__name__}"
        gap = float(errors.abs().max()) if self.model.dtype not in LOW else root_mean_square(errors)
        return (
            ""
            if gap <= max(self.tolerance, least)
            else f"computes logits that are off by {gap:.3g} standard deviations"
        )

    def _expected(self) -> tuple[torch.Tensor, float]:
        """Return exact logits, and how far others may be from them."""
        plain = self._alone()
        if bool(plain.isnan().any()):
            raise RuntimeError(NOT_FINITE)
        if self.model.dtype not in LOW:
            return plain, TOLERANCE
        try:
            with in_fp32(unwrapped(self.model)):
                exact = self._alone()
        except (TypeError, RuntimeError):
            return plain, BLIND_TOLERANCE
        return exact, max(TOLERANCE, TIMES * root_mean_square(self._compared(plain, exact)))

    def _compared(self, logits: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        """Return the differences of log-probabilities, in standard deviations of the exact ones."""
        live = torch.ones(exact.shape[:2], dtype=torch.bool, device=exact.device)
        live[:, -1] = torch.tensor(RUNNING, device=exact.device)
        own, expected = (values.float().log_softmax(dim=-1)[live] for values in (logits, exact))
        errors: torch.Tensor = (own - expected) / expected.std()
        return errors

    def _alone(self) -> torch.Tensor:
        """Run every prompt with its response, alone and without a cache."""
        rows = []
        with without_warning_of_positions():
            for row, response in enumerate(self.responses):
                ids = torch.tensor([self.prompts[row // SAMPLES] + response], device=self.model.device)
                rows.append(self.model(input_ids=ids, use_cache=False).logits[0, -STEPS:])
        return torch.stack(rows)

    def decoded(self, kind: "type[Shared | CopiedCache]") -> torch.Tensor:
        """Decode the responses together, by this project's loop."""
        prefilled = prefill(self.model, self.prompts, pad_id=0)
        state = kind(prefilled, samples=SAMPLES, room=STEPS - 1)
        positions = prefilled.mask.sum(dim=1).repeat_interleave(SAMPLES)[:, None]
        tokens = torch.tensor(self.responses, device=positions.device)
        first = prefilled.logits.repeat_interleave(SAMPLES, dim=0)
        second = state.step(tokens[:, 0], positions)
        compaction = plan_compaction(list(RUNNING), tokens.device)
        order = compaction.apply(torch.arange(len(tokens), device=tokens.device))
        state.compact(compaction)
        third = torch.zeros_like(second)
        third[order] = state.step(tokens[order, 1], positions[order] + 1)
        return torch.stack([first, second, third], dim=1)

    def generated(self, *, together: bool) -> torch.Tensor:
        """Decode the responses by transformers' loop: those to prompts of one length together, or each alone."""
        logits: list[torch.Tensor] = [torch.empty(0)] * len(self.responses)
        every = range(len(self.responses))
        groups = [[row for row in every if PROMPTS[row // SAMPLES] == length] for length in dict.fromkeys(PROMPTS)]
        for rows in groups if together else [[row] for row in every]:
            length = PROMPTS[rows[0] // SAMPLES]
            tokens = torch.tensor([self.responses[row] + [0] for row in rows], device=self.model.device)
            forced = Forced(tokens, length)
            generate(self.model, [self.prompts[row // SAMPLES] for row in rows], forced, max_new_tokens=STEPS, pad_id=0)
            for row, own in zip(rows, torch.stack(forced.scores, dim=1), strict=True):
                logits[row] = own
        return torch.stack(logits)
