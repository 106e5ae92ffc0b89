"""The layout of prompts and responses in one row of tokens, without padding, every prompt once. Knows no model."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from components.models.cpu.linear import pad_rows


class Segment(NamedTuple):
    """A response in the row, and the prompt that it answers."""

    prompt_start: int
    prompt_length: int
    start: int
    length: int

    @property
    def adjoins(self) -> bool:
        """Whether it stands directly behind its prompt, as the first of a prompt's responses does."""
        return self.start == self.prompt_start + self.prompt_length

    @property
    def places(self) -> tuple[slice, slice]:
        """Places of the prompt and of the response."""
        return slice(self.prompt_start, self.prompt_start + self.prompt_length), slice(
            self.start, self.start + self.length
        )


class Packed:
    """Prompts and responses of equal count as one row: `prompt a, response 1 to a, response 2 to a, prompt b, ...`.

    Equal prompts are merged, in the order of their first row. A response's positions continue its prompt's, so only the
    attention separates a second response from the first (Wang and Hegde 2024, arXiv 2410.20305).
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        device: torch.device,
        dtype: torch.dtype,
        *,
        ends: bool = False,
    ) -> None:
        """Lay out prompts and responses.

        Args:
            prompts: Token ids, none of them empty.
            responses: As the prompts.
            device: Device of the tensors.
            dtype: Precision of the model that reads the row.
            ends: Whether the last token of each response is read, instead of every place that predicts one of its
                tokens.
        """
        ids: list[int] = []
        positions: list[int] = []
        segments: list[Segment | None] = [None] * len(prompts)
        for rows in self._by_prompt(prompts):
            prompt, prompt_start = prompts[rows[0]], len(ids)
            ids += prompt
            positions += range(len(prompt))
            for row in rows:
                response = responses[row]
                segments[row] = Segment(prompt_start, len(prompt), len(ids), len(response))
                ids += response
                positions += range(len(prompt), len(prompt) + len(response))
        self.segments: list[Segment] = [segment for segment in segments if segment is not None]
        """In the order of the input."""
        self.in_order = sorted(self.segments, key=lambda segment: segment.start)
        """In the order of the row."""
        self.longest = max(segment.prompt_length + segment.length for segment in self.segments)
        """Tokens of the longest prompt and response."""
        self.num_tokens = len(ids)
        """Tokens of prompts and responses. Behind them may stand tokens that nothing sees, so that no layer has to pad
        its rows."""
        filling = pad_rows(len(ids), device, dtype)
        ids, positions = ids + ids[:1] * filling, positions + [0] * filling
        self.input_ids = torch.tensor([ids], device=device)
        self.position_ids = torch.tensor([positions], device=device)
        places = torch.cat([_last(segment) if ends else _before(segment) for segment in self.segments])
        self.places = places.to(device)
        """Places that are read, response by response: where each response token is predicted, or each response's last
        token. A prompt's last token predicts the first token of all its responses, and is listed for each of them."""
        read = torch.zeros(len(ids), dtype=torch.bool)
        read[places] = True
        read[(~read).nonzero().squeeze(1)[: pad_rows(int(read.sum()), device, dtype)]] = True
        self.read = read.nonzero().squeeze(1).to(device)
        """The same places in order, each once; with others, if products of so many rows would have to be padded."""

    def _by_prompt(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the rows of each distinct prompt."""
        answers: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(prompts):
            answers.setdefault(tuple(prompt), []).append(row)
        return list(answers.values())


def _before(segment: Segment) -> torch.Tensor:
    last = segment.prompt_start + segment.prompt_length - 1
    return torch.tensor([last, *range(segment.start, segment.start + segment.length - 1)])


def _last(segment: Segment) -> torch.Tensor:
    return torch.tensor([segment.start + segment.length - 1])
