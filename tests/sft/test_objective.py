"""A step's loss and gradient are transformers' own, with `labels=-100` where nothing is trained on."""

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from components.dpo.batches import Layout, Pair, Slot, token_counts
from components.scoring.response_logps import scoring_path
from components.sft.objective import SftObjective
from components.sft.rows import TokenRow
from tests.scoring.packed.architectures import PACKED, PADDED, build

PAD = 0
MODELS = {"packed": PACKED["llama"], "packed experts": PACKED["mixture of experts"], "padded": PADDED["gemma2"][0]}


def token_rows(number: int) -> list[TokenRow]:
    """Conversations of several turns, of which some tokens are trained on; two share their prompt."""
    rng = random.Random(5)
    rows = []
    for index in range(number):
        prompt = [rng.randint(5, 39) for _ in range(rng.randint(2, 9))] if index != 1 else rows[0].pair.prompt
        answer = [rng.randint(5, 39) for _ in range(rng.randint(1, 20))]
        trained = (True, *(rng.random() < 0.6 for _ in answer[1:]))
        rows.append(TokenRow(Pair(prompt, answer, [], 1.0), trained, 1, 0))
    return rows


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def expected(model: Any, rows: list[TokenRow]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of one padded batch by the model's own loss."""
    width = max(row.pair.num_tokens for row in rows)
    shape = (len(rows), width)
    ids, mask, labels = torch.full(shape, PAD), torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for place, row in enumerate(rows):
        first, length = len(row.pair.prompt), row.pair.num_tokens
        ids[place, :length] = torch.tensor(row.pair.prompt + row.pair.chosen)
        mask[place, :length] = 1
        trained = torch.tensor(row.trained)
        labels[place, first:length] = torch.where(trained, torch.tensor(row.pair.chosen), -100)
    model.zero_grad()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), gradients(model)


def stepped(model: Any, rows: list[TokenRow], *, per_micro_batch: int) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradient of one step as the training loop makes it, and its number of micro-batches."""
    objective = SftObjective(rows, pad_id=PAD)
    packed = scoring_path(model, max(row.pair.longest for row in rows)).packed
    lengths = token_counts(objective.pairs, padded=not packed)
    layout = Layout(lengths, 10_000, max_pairs=per_micro_batch, padded=not packed)
    micro_batches = layout.micro_batches(list(range(len(rows))))
    values = objective.step_values(model, micro_batches, layout)
    model.zero_grad()
    total = 0.0
    for slots in micro_batches:
        result = objective.micro_batch(model, slots, values)
        result.loss.backward()
        total += float(result.sums[0])
        assert result.finite.all()
    return total, gradients(model), len(micro_batches)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_micro_batch", [1, 3, 8])
def test_step_has_the_loss_and_gradient_of_transformers_own_loss(name: str, per_micro_batch: int) -> None:
    rows = token_rows(8)
    model, twin = (build(AutoModelForCausalLM, MODELS[name]).eval() for _ in range(2))
    assert scoring_path(model, 40).packed == name.startswith("packed")
    loss, found, num_micro_batches = stepped(model, rows, per_micro_batch=per_micro_batch)
    assert num_micro_batches == {1: 8, 3: 3, 8: 1}[per_micro_batch]
    exact_loss, exact = expected(twin, rows)
    assert loss == pytest.approx(exact_loss, abs=1e-5)
    assert found.keys() == exact.keys()
    for weight, gradient in found.items():
        torch.testing.assert_close(gradient, exact[weight], atol=1e-5, rtol=1e-4)


def test_step_weighs_every_token_alike_and_not_every_conversation() -> None:
    """By hand: the mean over 1 + 3 tokens, not the mean of two conversations' means."""
    model = build(AutoModelForCausalLM, MODELS["packed"]).eval()
    short = TokenRow(Pair([5, 6], [7], [], 1.0), (True,), 1, 0)
    long = TokenRow(Pair([8, 9], [10, 11, 12], [], 1.0), (True, True, True), 1, 0)
    both = stepped(model, [short, long], per_micro_batch=2)[0]
    alone = [stepped(model, [row], per_micro_batch=1)[0] for row in (short, long)]
    assert both == pytest.approx((alone[0] + 3 * alone[1]) / 4, abs=1e-5)
    assert both != pytest.approx(sum(alone) / 2, abs=1e-3)


def test_step_ignores_a_slot_that_only_keeps_the_ranks_in_step() -> None:
    rows = token_rows(3)
    model = build(AutoModelForCausalLM, MODELS["packed"]).eval()
    objective = SftObjective(rows, pad_id=PAD)
    layout = Layout(token_counts(objective.pairs, padded=False), 10_000)
    (slots,) = layout.micro_batches([0, 2])
    filler = Slot(1, 0.0)
    plain = objective.step_values(model, [slots], layout)
    filled = objective.step_values(model, [slots, [filler]], layout)
    assert plain == filled
    assert float(objective.micro_batch(model, [filler], filled).sums[0]) == 0.0
