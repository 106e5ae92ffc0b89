"""Prompts and responses of one forward."""

from collections.abc import Sequence

import torch


class Batch:
    """Prompts and responses of equal count, as rows of one forward."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device
    ) -> None:
        self.prompts, self.responses, self.pad_id, self.device = prompts, responses, pad_id, device
        self.response_width = max(len(response) for response in responses)
        targets = torch.full((len(responses), self.response_width), pad_id, dtype=torch.long)
        for row, response in enumerate(responses):
            targets[row, : len(response)] = torch.tensor(response)
        lengths = torch.tensor([len(response) for response in responses])
        mask = torch.arange(self.response_width) < lengths.unsqueeze(1)
        self.places = mask.flatten().nonzero().squeeze(1).to(device)
        """Index of each response token in a flattened (rows, response width), row by row."""
        self.targets, self.target_mask = targets.to(device), mask.to(device)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and response."""
        return max(len(prompt) + len(response) for prompt, response in zip(self.prompts, self.responses, strict=True))

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the response tokens, (tokens,), as (rows, response width), with zeros elsewhere."""
        return (
            values.new_zeros(self.target_mask.numel()).index_copy(0, self.places, values).view(self.target_mask.shape)
        )
