"""The requests of a round's stages, built from the configuration and from the stages published so far. Runs nothing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from components.artifacts import artifact, derive_seed, read_json
from components.campaign.files import answered_rounds, judged_rounds, replayed_pairs
from components.campaign.models import master_of_round, model_of_round
from components.campaign.state import read_state, round_directory, start_directory
from components.config import CampaignConfig, PolicyConfig
from components.feedback.waiting import feedback_request
from components.functions.source import code_digest
from components.promotion.levels import level_of_next
from components.records import (
    AnsweredRound,
    Artifact,
    AuditSettings,
    BestOfNRequest,
    CollectRequest,
    DemonstrationSource,
    EvaluateRequest,
    GenerateRequest,
    JudgeRef,
    Manifest,
    ModelRef,
    PromoteRequest,
    PromotionTest,
    StartPins,
    StartProbe,
    StartRequest,
    TakeFeedbackRequest,
    TrainRequest,
    ValidateRequest,
)

LOOK_EVERY = 16
"""Held-out prompts between two looks at the evidence, if each verdict has its price."""


def start_request(
    config: CampaignConfig,
    prompts_digest: str,
    pins: StartPins | None = None,
    *,
    sft: Artifact | None = None,
    demonstrations: DemonstrationSource | None = None,
) -> StartRequest:
    """Return the request of round 0, which pins the start model, the judges and the prompts.

    Args:
        config: The campaign's configuration.
        prompts_digest: Content digest of the prompts.
        pins: What else is pinned, or was before.
        sft: The model that was trained on demonstrations; None without.
        demonstrations: What rounds build pairs from; None if a judge makes them.
    """
    return StartRequest(
        policy=config.policy,
        judge=config.judge,
        evaluation_judge=config.evaluation_judge,
        active_judge=config.active.judge,
        holdout_judge=config.holdout_judge,
        prompts=config.prompts,
        prompts_digest=prompts_digest,
        lora=config.lora,
        soft_prompt=config.soft_prompt,
        probe=_probe(config),
        carries_columns=config.reads_columns,
        checks=config.checks,
        pins=pins or StartPins(),
        regression=config.regression,
        sft=sft,
        demonstrations=demonstrations,
    )


def _probe(config: CampaignConfig) -> StartProbe | None:
    """Return how round 0 measures the start model; None if it does not."""
    settings, generation = config.evaluation, config.generation
    if not settings.start_prompts:
        return None
    return StartProbe(
        num_prompts=min(settings.start_prompts, config.prompts.num_held_out),
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        engine=generation.engine,
        batch_size=generation.batch_size,
        confidence=settings.confidence,
        seed=config.seed,
        stop=generation.stop,
        tensor_parallel_size=generation.tensor_parallel_size,
    )


@dataclass(frozen=True)
class Round:
    """A round of a campaign as it begins.

    Each method returns the request of one stage, if the stages before it are published.
    """

    config: CampaignConfig
    campaign_directory: Path
    number: int
    champion_round: int
    """Round of the champion that this round starts from."""
    start: Manifest
    """Manifest of round 0."""
    seed_pairs_digest: str | None
    """Content digest of the data set that is round 1's data; None if round 1 samples like any other."""

    @property
    def directory(self) -> Path:
        """Directory of the round's stages."""
        return round_directory(self.campaign_directory, self.number)

    @property
    def is_seeded(self) -> bool:
        """Whether a data set is this round's data, so that it samples no responses."""
        return self.number == 1 and self.seed_pairs_digest is not None

    @property
    def samples(self) -> bool:
        """Whether the round samples responses; else its data come from a data set or from users."""
        return self.config.preferences.samples_in(self.number)

    @property
    def takes_feedback(self) -> bool:
        """Whether users' thumbs are data of this round."""
        return self.config.preferences.feedback.use != "off" and not self.is_seeded

    def take_feedback(self) -> TakeFeedbackRequest:
        """Return the request that takes the thumbs that no earlier round took."""
        return feedback_request(self.campaign_directory, self.config, self.number)

    def generate(self) -> GenerateRequest:
        """Return the request that samples responses from the champion."""
        prompts, demonstrated = self.config.prompts, self.config.preferences.takes_demonstrations
        return GenerateRequest(
            policy=self._champion,
            limits=self._limits,
            prompts=self._pinned("demonstration_prompts.parquet" if demonstrated else "train_prompts.parquet"),
            per_round=prompts.per_round,
            solved_rounds=prompts.solved_rounds,
            solved_score=prompts.solved_score,
            earlier=judged_rounds(self.campaign_directory, self.number) if prompts.solved_rounds else (),
            round=self.number,
            campaign_seed=self.config.seed,
            generation=self.config.generation,
            seed=self._seed("generate_responses"),
            # The prompts of demonstrations have no columns.
            tag_column="" if demonstrated else prompts.tag_column,
            tag_shares=prompts.tag_shares,
            weight_column=prompts.weight_column,
        )

    def collect(self, generated: Manifest | None, taken: Manifest | None = None) -> CollectRequest:
        """Return the request that judges the responses.

        Args:
            generated: None in a round whose data come from outside.
            taken: The thumbs that the round took; None if it takes none.
        """
        active = self.config.active
        demonstrated = self.config.preferences.takes_demonstrations and generated is not None
        return CollectRequest(
            responses=None if generated is None else self._published(generated, "responses.parquet"),
            prompts=None if generated is None else self._published(generated, "prompts.parquet"),
            seed_pairs_digest=self.seed_pairs_digest if self.is_seeded else None,
            judge=JudgeRef(config=self.config.judge, digest=self._judge_digest("judge")),
            policy=self._champion,
            start=self._model(0),
            limits=self._limits,
            preferences=self.config.preferences,
            active=active,
            active_judge=JudgeRef(config=active.judge, digest=self._judge_digest("active_judge"))
            if active.budget
            else None,
            checked_judge=self._checked_judge,
            seed=self._seed("collect_preferences"),
            feedback=None if taken is None else self._published(taken, "thumbs.parquet"),
            demonstrations=self._pinned("demonstrations.parquet") if demonstrated else None,
            answered=self._answered if demonstrated and self.config.preferences.pairs == "ditto" else (),
        )

    def validate(self, collected: Manifest) -> ValidateRequest:
        """Return the request that checks and splits the pairs."""
        return ValidateRequest(
            round=self.number,
            preferences=self._published(collected, "preferences.parquet"),
            replayed=replayed_pairs(self.campaign_directory, self.number, self.config.validation.replay),
            held_out=self._pinned("held_out_prompts.parquet"),
            policy=self._champion,
            limits=self._limits,
            validation=self.config.validation,
            takes=self.config.training.takes,
            seed=self._seed("validate_data"),
            collected=self._published(collected, "collect.json"),
            held_out_by=self.config.prompts.held_out_by,
            checks=self.config.checks,
        )

    def train(self, validated: Manifest) -> TrainRequest:
        """Return the request that trains the champion on the pairs."""
        return TrainRequest(
            policy=self._champion,
            reference=self._reference,
            train=self._published(validated, "train.parquet"),
            eval=self._published(validated, "eval.parquet"),
            limits=self._limits,
            lora=self.config.lora,
            soft_prompt=self.config.soft_prompt,
            training=self.config.training,
            constraints=self.config.constraints,
            round=self.number,
            seed=self._seed("dpo_train"),
            master=master_of_round(self.campaign_directory, self.champion_round),
            constraint_digest=self._constraint_digest,
        )

    def evaluate(self, trained: Manifest) -> EvaluateRequest:
        """Return the request that compares the trained model with champion and start."""
        prompts, holdout = self.config.prompts, self.config.holdout_judge
        return EvaluateRequest(
            challenger=self._model(self.number),
            champion=self._champion,
            start=self._model(0),
            held_out=self._pinned("held_out_prompts.parquet"),
            training=self._published(trained, "train.json"),
            limits=self._limits,
            num_held_out=prompts.num_held_out,
            round=self.number,
            campaign_seed=self.config.seed,
            audit_share=self.config.gate.audit_share,
            tag_column=prompts.tag_column,
            test=self._promotion_test,
            engine=self.config.generation.engine,
            batch_size=self.config.generation.batch_size,
            judge=JudgeRef(config=self.config.evaluation_judge, digest=self._judge_digest("evaluation_judge")),
            evaluation=self.config.evaluation,
            constraints=self.config.constraints,
            seed=self._seed("evaluate"),
            stop=self.config.generation.stop,
            tensor_parallel_size=self.config.generation.tensor_parallel_size,
            constraint_digest=self._constraint_digest,
            audit=self._audit,
            holdout_judge=JudgeRef(config=holdout, digest=self._judge_digest("holdout_judge")) if holdout else None,
            regression=self.config.regression,
            regression_digest=self.pins.get("regression_digest"),
        )

    def best_of_n(self, num_samples: int) -> BestOfNRequest:
        """Return the request that has the judge pick the best of several answers of the start model."""
        prompts, generation = self.config.prompts, self.config.generation
        return BestOfNRequest(
            start=self._model(0),
            held_out=self._pinned("held_out_prompts.parquet"),
            limits=self._limits,
            num_held_out=prompts.num_held_out,
            campaign_seed=self.config.seed,
            audit_share=self.config.gate.audit_share,
            tag_column=prompts.tag_column,
            engine=generation.engine,
            batch_size=generation.batch_size,
            tensor_parallel_size=generation.tensor_parallel_size,
            stop=generation.stop,
            num_samples=num_samples,
            judge=JudgeRef(config=self.config.judge, digest=self._judge_digest("judge")),
            evaluation_judge=JudgeRef(
                config=self.config.evaluation_judge, digest=self._judge_digest("evaluation_judge")
            ),
            evaluation=self.config.evaluation,
            seed=self._seed("best_of_n"),
        )

    def promote(self, evaluated: Manifest) -> PromoteRequest:
        """Return the request that decides by the gate whether the trained model becomes the champion."""
        return PromoteRequest(
            evaluation=self._published(evaluated, "evaluation.json"),
            gate=self.config.gate,
            regression=self.config.regression,
        )

    @cached_property
    def _champion(self) -> ModelRef:
        return self._model(self.champion_round)

    @property
    def _audit(self) -> AuditSettings | None:
        """Return the audit that is due; None if none is, or nothing was promoted that could be audited."""
        gate = self.config.gate
        if not gate.audit_share or self.number % gate.audit_every or self.champion_round == 0:
            return None
        state = read_state(self.campaign_directory)
        assert state is not None
        return AuditSettings(earlier=self._model(state.champion_before(self.number - gate.audit_every)))

    @property
    def _answered(self) -> tuple[AnsweredRound, ...]:
        state = read_state(self.campaign_directory)
        return () if state is None else answered_rounds(self.campaign_directory, state, self.number)

    @property
    def _promotion_test(self) -> PromotionTest:
        gate, num_prompts = self.config.gate, self.config.prompts.num_held_out
        paid = self.config.evaluation_judge.is_paid_by_verdict
        look_every = gate.look_every or (LOOK_EVERY if paid else num_prompts)
        state = read_state(self.campaign_directory)
        earlier = [] if state is None else [record for record in state.rounds if record.round < self.number]
        return PromotionTest(
            level=level_of_next(earlier, false_promotion_rate=gate.false_promotion_rate),
            min_win_rate=gate.min_win_rate,
            verdict_cost=gate.verdict_cost if look_every < num_prompts else 0.0,
            look_every=look_every,
        )

    @property
    def _reference(self) -> ModelRef:
        rounds = {"start": 0, "previous": self.number - 1, "champion": self.champion_round}
        return self._model(rounds[self.config.reference])

    @cached_property
    def _limits(self) -> PolicyConfig:
        """The policy section, with the date that the campaign's prompts tell for good."""
        policy = self.config.policy
        pinned = self.pins.get("template_date")
        return policy if policy.template_date or not pinned else policy.model_copy(update={"template_date": pinned})

    @property
    def _start_directory(self) -> Path:
        return start_directory(self.campaign_directory)

    @cached_property
    def pins(self) -> dict[str, Any]:
        """Content of round 0's start.json."""
        return read_json(self._start_directory / "start.json")

    @property
    def _constraint_digest(self) -> str | None:
        function = self.config.constraints.function
        return code_digest(function) if function else None

    @property
    def _checked_judge(self) -> JudgeRef | None:
        """Return the judge of the evaluation if people decide pairs by which it can be checked."""
        judges = [self.config.judge, *([self.config.active.judge] if self.config.active.budget else [])]
        if not any(people.checks_judge for judge in judges for people in judge.asked_people):
            return None
        return JudgeRef(config=self.config.evaluation_judge, digest=self._judge_digest("evaluation_judge"))

    def _judge_digest(self, name: str) -> str:
        digest: str = self.pins[name]["digest"]
        return digest

    def _model(self, number: int) -> ModelRef:
        return model_of_round(self.campaign_directory, number)

    def _pinned(self, name: str) -> Artifact:
        return artifact(self._start_directory, self.start, name)

    def _published(self, manifest: Manifest, name: str) -> Artifact:
        return artifact(self.directory / manifest.stage, manifest, name)

    def _seed(self, stage: str) -> int:
        return derive_seed(self.config.seed, self.number, stage)
