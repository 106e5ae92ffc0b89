"""The two sides of some pairs: all chosen answers, then all rejected ones, with a gap where an unpaired response has no other side."""

from collections.abc import Sequence

import torch

from components.dpo.batches import Pair


class Sides:
    """Which answers there are, and how values of them stand as (2, pairs): chosen first."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        """Takes the pairs in their order; each has an answer on one side at least."""
        self.num_pairs = len(pairs)
        both = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
        self.places = [place for place, (_, answer) in enumerate(both) if answer]
        """Where each answer that there is stands among 2 x pairs places."""
        self.prompts = [both[place][0] for place in self.places]
        self.answers = [both[place][1] for place in self.places]

    def spread(self, values: torch.Tensor, *, gap: float = 0.0) -> torch.Tensor:
        """Puts values of the answers, (answers,), in their places, (2, pairs), with `gap` where there is no answer; differentiable."""
        full = values.new_full((2 * self.num_pairs,), gap)
        return full.scatter(0, torch.tensor(self.places, device=values.device), values).view(2, self.num_pairs)

    def present(self, device: torch.device) -> torch.Tensor:
        """1 where there is an answer and 0 where there is none, (2, pairs)."""
        return self.spread(torch.ones(len(self.places), device=device))

    def shared_lengths(self) -> torch.Tensor:
        """Tokens that both answers of each answer's pair have, (answers,); of an unpaired response its own."""
        lengths = self.spread(torch.tensor([len(answer) for answer in self.answers]).float(), gap=float("inf"))
        return lengths.min(dim=0).values.repeat(2)[self.places].long()
