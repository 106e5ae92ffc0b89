"""How a challenger is compared, and when it is promoted."""

from typing import ClassVar

from pydantic import Field

from components.config.section import Section


class EvaluationConfig(Section):
    """How challenger, champion and start are compared on held-out prompts."""

    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """Sampling temperature of the compared responses. KL to the start is between the two models at this temperature, so
    it grows as the temperature falls."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Samples the compared responses from the smallest set of tokens whose probability reaches this share, as a server
    that serves the model may do; 1 keeps all tokens. KL to the start is still that of whole distributions: below 1, or
    with `top_k`, the challenger is sampled once more for it."""
    top_k: int = Field(default=0, ge=0)
    """Samples the compared responses from the k most likely tokens; 0 keeps all tokens."""
    samples_per_prompt: int = Field(default=1, ge=1, le=64)
    """Responses of each model to each held-out prompt, compared one by one; intervals and evidence are over prompts."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Level of the bootstrap intervals."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100000)
    """Resamples of the paired bootstrap over prompts."""
    num_samples: int = Field(default=24, ge=0)
    """Held-out prompts whose responses are kept side by side for reading."""
    start_prompts: int = Field(default=64, ge=0)
    """Held-out prompts on which round 0 samples the start model, to tell how many of its responses are cut or empty
    before hours are spent; 64 know a share to within 13 points. At most `prompts.num_held_out`; 0 samples none."""
    nodes: int = Field(default=1, ge=1)
    """Machines that share the held-out prompts, started by the `launcher`, with `generation.num_processes` on each."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("samples_per_prompt", "top_p", "top_k")
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"start_prompts", "nodes"})


class GateConfig(Section):
    """When a challenger replaces the champion: held-out evidence shows that it is better, and no guard breaks."""

    false_promotion_rate: float = Field(default=0.05, gt=0.0, le=0.5)
    """Largest probability that a campaign ever promotes a challenger that is not better than its champion, over all of
    its rounds together."""
    min_win_rate: float = Field(default=0.5, ge=0.5, lt=1.0)
    """Win rate that a challenger must be shown to exceed: above 0.5, the smallest improvement worth a promotion."""
    look_every: int = Field(default=0, ge=0)
    """Held-out prompts judged between two looks at the evidence; the judging ends once it suffices or cannot suffice
    any more. 0 looks every 16 prompts if a judge is asked over the network, else only at the end."""
    verdict_cost: float = Field(default=0.3, ge=0.0, le=10.0)
    """What verdicts on all held-out prompts cost, as a multiple of missing a better challenger: a higher cost gives up
    earlier. 0 never gives up; a round that looks only at the end does not either."""
    audit_share: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of the held-out prompts that no gate sees: audits compare the champion on them. 0 audits nothing."""
    audit_every: int = Field(default=10, ge=1)
    """Rounds between two audits of the champion, against the start and the champion of so many rounds ago."""
    min_win_rate_vs_start: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Guard: smallest measured win rate of the challenger against the start; 0 sets no limit."""
    max_holdout_loss: float = Field(default=0.1, gt=0.0, le=1.0)
    """Guard, if there is a `holdout_judge`: the share of held-out prompts on which it prefers the champion must surely
    be less than this above the share on which it prefers the challenger."""
    max_length_ratio: float = Field(default=1.5, gt=0.0)
    """Guard: largest mean response length of the challenger, as a multiple of the champion's."""
    min_length_ratio: float = Field(default=0.5, ge=0.0)
    """Guard: smallest mean response length of the challenger, as a multiple of the champion's; 0 sets no limit. Judges
    that learnt from people who prefer shorter answers can be won by answers of a few words."""
    max_length_ratio_to_start: float = Field(default=2.5, ge=0.0)
    """Guard: as `max_length_ratio`, against the start model, so that small steps do not add up; 0 sets no limit."""
    min_length_ratio_to_start: float = Field(default=0.4, ge=0.0)
    """Guard: as `min_length_ratio`, against the start model; 0 sets no limit."""
    max_kl_to_start: float = Field(default=100.0, gt=0.0)
    """Guard: largest KL divergence from the start, in nats per response."""
    max_unfinished_increase: float = Field(default=0.05, ge=0.0, le=1.0)
    """Guard: a challenger is refused if its share of responses that are empty or cut by the length limit exceeds the
    champion's on the same prompts by more than this, and surely exceeds it; 1 sets no limit."""
    max_unfinished_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Guard: largest share of the challenger's responses that are empty or cut, whatever the champion's is; 1 sets no
    limit."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = (
        "false_promotion_rate",
        "min_win_rate",
        "look_every",
        "verdict_cost",
        "audit_share",
        "audit_every",
        "min_win_rate_vs_start",
        "max_holdout_loss",
        "min_length_ratio",
        "max_length_ratio_to_start",
        "min_length_ratio_to_start",
        "max_unfinished_increase",
    )
    FORMER_DEFAULTS: ClassVar[dict[str, float]] = {
        "audit_share": 0.0,
        "min_win_rate_vs_start": 0.0,
        "min_length_ratio": 0.0,
        "max_length_ratio_to_start": 0.0,
        "min_length_ratio_to_start": 0.0,
        "max_unfinished_share": 0.2,
        "max_unfinished_increase": 1.0,
    }
    """Behaviour of 0.1: an absolute limit on unfinished answers, none on short ones or on what is compared with the
    start, and no audits. A campaign that began with it keeps it, as long as its configuration leaves the keys out."""
