import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from components.scoring import response_logps as scoring
from components.scoring.response_logps import Batch, response_logps, together, token_logps


@pytest.fixture(scope="module")
def model(starter_directory: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(starter_directory, dtype=torch.float32).eval()


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6, 7]]
RESPONSES = [[20, 21], [22, 23, 24, 25, 26], [27], [21, 20, 3]]


@torch.no_grad()
def by_plain_loop(model: torch.nn.Module, prompt: list[int], response: list[int]) -> float:
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
    total = 0.0
    for place, token in enumerate(response):
        row = logits[len(prompt) + place - 1]
        total += float(row[token] - torch.logsumexp(row, dim=0))
    return total


def test_response_logps_padded_batch_equals_plain_float64_loop(model: torch.nn.Module) -> None:
    scored = response_logps(model, 0, PROMPTS, RESPONSES, max_rows=3)
    expected = [by_plain_loop(model, prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(scored, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_response_logps_any_batch_size_is_the_same(model: torch.nn.Module, batch_size: int) -> None:
    whole = response_logps(model, 0, PROMPTS, RESPONSES, max_rows=4)
    torch.testing.assert_close(
        response_logps(model, 0, PROMPTS, RESPONSES, max_rows=batch_size), whole, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("packed", "expected"),
    # Tokens by row: 3 + 2, 1 + 5, 6 + 1, 3 + 3. In order of their prompts: row 1, then rows 0 and 3 with one prompt,
    # then row 2.
    [(False, [[1], [0], [3], [2]]), (True, [[1], [0, 3], [2]])],
)
def test_together_counts_an_equal_prompt_once_where_rows_are_packed(packed: bool, expected: list[list[int]]) -> None:
    assert list(together(PROMPTS, RESPONSES, max_tokens=8, max_rows=4, packed=packed)) == expected


@pytest.mark.parametrize("packed", [False, True])
def test_together_keeps_to_its_limits_and_leaves_no_row_out(packed: bool) -> None:
    chance = random.Random(3)
    prompts = [[chance.randrange(3)] * chance.randrange(1, 5) for _ in range(60)]
    responses = [[7] * chance.randrange(1, 30) for _ in prompts]
    forwards = list(together(prompts, responses, max_tokens=40, max_rows=6, packed=packed))
    assert sorted(row for rows in forwards for row in rows) == list(range(60))
    assert len(forwards) < 60
    for rows in forwards:
        assert len(rows) <= 6
        once = sum(len(prompt) for prompt in {tuple(prompts[row]) for row in rows}) + sum(
            len(responses[row]) for row in rows
        )
        filled = len(rows) * (max(len(prompts[row]) for row in rows) + max(len(responses[row]) for row in rows))
        assert (once if packed else filled) <= 40


@pytest.mark.parametrize(("longest", "expected"), [(2**31, [4]), (0, [1, 1, 1, 1])], ids=["packed", "padded"])
def test_the_limit_on_tokens_is_for_padded_forwards(
    longest: int, expected: list[int], model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []

    def logps(_: torch.nn.Module, batch: Batch) -> torch.Tensor:
        forwards.append(len(batch.responses))
        return torch.zeros(batch.target_mask.shape)

    monkeypatch.setattr(scoring, "longest_packed", lambda *_: longest)
    monkeypatch.setattr(scoring, "token_logps", logps)
    response_logps(model, 0, PROMPTS, RESPONSES, max_tokens=8)
    assert forwards == expected


def test_token_logps_gradient_equals_plain_forward() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).double()
    # The head's rows are cast to float32, so gradients agree to that precision and not to float64's.
    token_logps(model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu"))).sum().backward()
    batched = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logps = torch.log_softmax(model(input_ids=torch.tensor([prompt + response])).logits[0], dim=-1)
        sum(logps[len(prompt) + place - 1, token] for place, token in enumerate(response)).backward()
    for name, parameter in model.named_parameters():
        error = (batched[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert error < 1e-4, name


def test_token_logps_places_without_a_token_are_zero(model: torch.nn.Module) -> None:
    logps = token_logps(model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu")))
    assert logps.shape == (4, 5)
    assert torch.equal(
        logps != 0, torch.tensor([[len(response) > place for place in range(5)] for response in RESPONSES])
    )
