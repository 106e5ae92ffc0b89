"""What calls came to, in tokens and in money. What is not known is None, or counted as such: it is never a 0."""

from typing import NamedTuple

from components.config import EndpointConfig


class Tokens(NamedTuple):
    """What a call took, as the endpoint counted it."""

    input: int
    output: int


class Usage(NamedTuple):
    """What the calls of a stage came to, over all its starts."""

    calls: int
    """Calls that were answered, or that may have been charged though no answer came."""
    unmeasured: int
    """Those among them of which the endpoint did not say how many tokens they took."""
    input_tokens: int
    """Prompt tokens of the measured calls."""
    output_tokens: int
    """Answer tokens of the measured calls."""
    cost: float | None
    """Cost of the measured calls, at the prices when they were made; None when none was measured, or the price of one was not known."""


NO_USAGE = Usage(0, 0, 0, 0, None)


def cost_of(endpoint: EndpointConfig, tokens: Tokens) -> float | None:
    """What so many tokens cost at the endpoint's prices; None when one of the prices is not known."""
    if not (endpoint.price_per_million_input and endpoint.price_per_million_output):
        return None
    return (tokens.input * endpoint.price_per_million_input + tokens.output * endpoint.price_per_million_output) / 1e6


def together(one: Usage, other: Usage) -> Usage:
    """Two parts' calls as one."""
    costs = [part.cost for part in (one, other) if part.calls > part.unmeasured]
    known = [cost for cost in costs if cost is not None]
    return Usage(
        calls=one.calls + other.calls,
        unmeasured=one.unmeasured + other.unmeasured,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost=sum(known) if known and len(known) == len(costs) else None,
    )
