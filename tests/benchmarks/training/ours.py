"""This project's training step as the pipeline runs it, with the reference pass over the step's pairs in its time."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from shapes import Shape, Triple

from components.config import ConstraintsConfig, LoraConfig, SoftPromptConfig, TrainingConfig
from components.dpo.batches import Layout, Pair
from components.dpo.engine import build_engine, join_process_group
from components.dpo.objective import Objective
from components.dpo.objective_state import ObjectiveState
from components.dpo.reference import PairLogps, score_pairs
from components.dpo.train import micro_batch_tokens, train_step
from components.models.adapters import with_fresh_adapter, without_adapter
from components.models.cpu import linear as cpu_linear
from components.models.cpu.layers import speed_up
from components.scoring import response_logps as scoring
from components.scoring.batch import Batch
from components.scoring.packed.layout import Packed
from components.scoring.padded import Rectangle

CPU = torch.device("cpu")
FULL_LOGITS, HEAD_ON_ANSWERS, PACKED, SHARED, PRODUCTS, CACHED_REFERENCE = range(6)


def _take_away(rung: int) -> None:
    """Switch off, in this process, the features above a rung of the ladder."""
    if rung < PRODUCTS:
        cpu_linear.onednn_is_faster = lambda: False
    if rung < SHARED:
        scoring.Packed = Unshared
    if rung < PACKED:
        scoring.longest_packed = lambda *_: 0
    if rung < HEAD_ON_ANSWERS:
        scoring.padded_logps = _from_all_logits


class Unshared(Packed):
    """Give every response its own copy of the prompt."""

    def _by_prompt(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[row] for row in range(len(prompts))]


def _from_all_logits(
    model: Any,
    batch: Batch,
    columns: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropies: torch.Tensor | None = None,
    collisions: bool = False,
) -> tuple[torch.Tensor, None]:
    """Stand for `padded_logps`, with the logits of all positions in fp32."""
    assert temperature == 1.0
    assert not collisions
    rows = Rectangle(batch)
    logits = model(
        input_ids=rows.input_ids, attention_mask=rows.attention_mask, position_ids=rows.position_ids, use_cache=False
    ).logits.float()
    logps = logits[:, -batch.response_width - 1 : -1].log_softmax(dim=2).flatten(0, 1).index_select(0, batch.places)
    if entropies is not None:
        entropies.copy_(torch.special.entr(logps.detach().exp()).sum(dim=1))
    return logps.gather(1, columns), None


Build = Callable[[Any, TrainingConfig, int, torch.dtype], Any]
"""Makes an engine of a model, the training section, the number of steps and the precision."""


def deepspeed_engine(model: Any, training: TrainingConfig, num_steps: int, dtype: torch.dtype) -> Any:
    """Return the pipeline's own engine."""
    join_process_group()
    return build_engine(model, training, num_steps=num_steps, dtype=dtype)


class Ours:
    """Run steps over pairs, one after the other."""

    def __init__(
        self,
        shape: Shape,
        pairs: list[Triple],
        *,
        dtype: torch.dtype,
        pairs_per_step: int,
        max_tokens: int,
        rung: int | None = None,
        lora_rank: int = 0,
        device: torch.device = CPU,
        build: Build = deepspeed_engine,
    ) -> None:
        self.scores = rung is None or rung < CACHED_REFERENCE
        if rung is not None:
            _take_away(rung)
        model = shape.build(dtype, device)
        speed_up(model)
        if lora_rank:
            model = with_fresh_adapter(model, LoraConfig(rank=lora_rank), SoftPromptConfig())
        training = TrainingConfig(learning_rate=1e-6, pairs_per_step=pairs_per_step, warmup_share=0.0)
        self.pairs = [Pair(pair.prompt, pair.chosen, pair.rejected, 1.0) for pair in pairs]
        self.model, self.pairs_per_step, self.max_tokens = (
            model,
            pairs_per_step,
            max_tokens or micro_batch_tokens(device, dtype),
        )
        self.objective = Objective(
            self.pairs,
            None,
            training,
            pad_id=shape.pad,
            end_ids=[shape.end],
            pair_weights=[1.0] * len(pairs),
            balance=(1.0, 1.0),
            constraints={},
            state=ObjectiveState(ConstraintsConfig(), [], shifts_rewards=False),
        )
        self.layout = Layout([pair.num_tokens for pair in self.pairs], self.max_tokens)
        self.num_steps, self.made = len(pairs) // pairs_per_step, 0
        self.engine: Any = build(model, training, self.num_steps, dtype)
        self.has_adapter = lora_rank > 0
        if not self.scores:
            self.score(list(range(len(pairs))))

    def step(self) -> float:
        """Run the next step, from the first again after the last, and return its loss."""
        number, self.made = self.made, self.made + 1
        began = number % self.num_steps * self.pairs_per_step
        index = list(range(began, began + self.pairs_per_step))
        if self.scores:
            self.score(index)
        self.engine.train()
        return float(
            train_step(self.engine, self.objective, index, self.layout, name=f"step {number}", on_loss=None)["loss"]
        )

    def score(self, index: list[int]) -> PairLogps:
        """Score these pairs by the model itself, as a round scores all pairs before its first step.

        Here weights have moved since: the work and the memory are a round's, and the loss is always ln 2.
        """
        pairs = [self.pairs[place] for place in index]
        with without_adapter(self.model) if self.has_adapter else contextlib.nullcontext(self.model) as reference:
            scored = score_pairs(
                reference.eval(),
                pairs,
                self.objective.pad_id,
                max_tokens=self.max_tokens,
                max_rows=0,
                rank=0,
                world_size=1,
            )
        chosen, rejected = torch.zeros(len(self.pairs)), torch.zeros(len(self.pairs))
        chosen[index], rejected[index] = scored.chosen, scored.rejected
        self.objective.reference = PairLogps(chosen, rejected)
        return scored
