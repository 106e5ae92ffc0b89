"""A step's loss over pairs of whole conversations."""

import random
from pathlib import Path

import pytest
import torch

from components.dpo.batches import Pair, Slot
from components.dpo.objective import StepValues
from components.models.loading import load_tokenizer, start_ref
from components.reward_model.model import load_with_head, rewards
from components.reward_model.objective import RewardObjective

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def headed(starter_directory: Path) -> torch.nn.Module:
    """The start model under a head that is not zero any more."""
    ref = start_ref(starter_directory, revision="main")
    found = load_with_head(ref, pad_id=load_tokenizer(ref).pad_token_id, dtype=torch.float32, device=CPU)
    assert found.is_fresh
    assert not bool(found.model.score.weight.any())
    torch.manual_seed(1)
    torch.nn.init.normal_(found.model.score.weight, std=0.3)
    return found.model.eval()


def pairs(number: int) -> list[Pair]:
    rng = random.Random(5)
    return [
        Pair(
            [],
            [rng.randint(5, 90) for _ in range(rng.randint(2, 30))],
            [rng.randint(5, 90) for _ in range(rng.randint(2, 30))],
            p,
        )
        for p in [1.0, 0.8, 0.5, 0.0][:number]
    ]


def test_rewards_batched_are_those_of_one_by_one(headed: torch.nn.Module) -> None:
    texts = [pair.chosen for pair in pairs(4)]
    with torch.no_grad():
        together = rewards(headed, texts, pad_id=headed.config.pad_token_id)
        alone = torch.cat([rewards(headed, [text], pad_id=headed.config.pad_token_id) for text in texts])
    assert together.tolist() == pytest.approx(alone.tolist(), abs=1e-5)
    assert len({round(value, 3) for value in together.tolist()}) == 4


def test_micro_batch_is_the_weighted_sum_over_its_pairs(headed: torch.nn.Module) -> None:
    objective = RewardObjective(pairs(4), pad_id=headed.config.pad_token_id)
    headed.zero_grad()
    together = objective.micro_batch(headed, [Slot(index, 0.25) for index in range(4)], StepValues())
    together.loss.backward()
    gradient = headed.score.weight.grad.clone()
    headed.zero_grad()
    alone = [objective.micro_batch(headed, [Slot(index, 0.25)], StepValues()) for index in range(4)]
    for part in alone:
        part.loss.backward()
    assert float(together.loss.detach()) == pytest.approx(sum(float(part.loss.detach()) for part in alone), abs=1e-5)
    assert together.sums.tolist() == pytest.approx(sum(part.sums for part in alone).tolist(), abs=1e-5)
    assert gradient.flatten().tolist() == pytest.approx(headed.score.weight.grad.flatten().tolist(), abs=1e-5)
    assert together.num_tokens == sum(len(pair.chosen) + len(pair.rejected) for pair in pairs(4))


def test_micro_batch_padding_slots_add_nothing(headed: torch.nn.Module) -> None:
    objective = RewardObjective(pairs(4), pad_id=headed.config.pad_token_id)
    with torch.no_grad():
        plain = objective.micro_batch(headed, [Slot(1, 1.0)], StepValues())
        padded = objective.micro_batch(headed, [Slot(1, 1.0), Slot(0, 0.0)], StepValues())
    assert float(padded.loss) == pytest.approx(float(plain.loss), abs=1e-5)
    assert padded.sums.tolist() == pytest.approx(plain.sums.tolist(), abs=1e-5)


def test_reward_model_that_is_trained_on_keeps_its_head(
    headed: torch.nn.Module, starter_directory: Path, tmp_path: Path
) -> None:
    headed.save_pretrained(tmp_path)
    again = load_with_head(start_ref(tmp_path, revision="main"), pad_id=0, dtype=torch.float32, device=CPU)
    assert not again.is_fresh
    assert torch.equal(again.model.score.weight, headed.score.weight)
    assert again.model.config.pad_token_id == headed.config.pad_token_id
