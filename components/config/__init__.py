"""The campaign's configuration: the only place where a knob and its default exist.

Frozen pydantic sections; unknown keys are refused with the nearest known name. Functions elsewhere take their own
section, never the whole configuration. Importing this package loads no machine-learning library.
"""

from components.config.active import ActiveConfig
from components.config.campaign import CAMPAIGN_NAME, BudgetConfig, CampaignConfig
from components.config.checks import ChecksConfig, Limit
from components.config.data import GenerationConfig, HeldOutBy, PromptsConfig, SamplingEngine, ValidationConfig
from components.config.evaluation import EvaluationConfig, GateConfig
from components.config.feedback import FeedbackConfig
from components.config.function import CallLimits, FunctionConfig
from components.config.judge import EndpointConfig, JudgeConfig, JudgeSettings, JurorConfig
from components.config.launcher import LauncherConfig
from components.config.loading import describe, differences, load_config, load_section, load_settings, read_settings
from components.config.people import PeopleConfig
from components.config.policy import BUILTIN, LoraConfig, PolicyConfig, SoftPromptConfig
from components.config.preferences import PreferencesConfig
from components.config.regression import RegressionConfig
from components.config.reward_model import RewardModelConfig
from components.config.section import Section
from components.config.sft import CampaignSftConfig, SftConfig
from components.config.study import ArmConfig, StudyConfig, at, flat, load_study
from components.config.sweep import DEFAULT, WINNER, ParameterConfig, SweepConfig, load_sweep
from components.config.tracking import TrackingConfig
from components.config.training import (
    HARD_LABEL_LOSSES,
    MARGIN_LOSSES,
    RESPONSE_LOSSES,
    UNSMOOTHED_LOSSES,
    WITHOUT_REFERENCE,
    ConstraintsConfig,
    LossName,
    Takes,
    TrainingConfig,
)

__all__ = [
    "BUILTIN",
    "CAMPAIGN_NAME",
    "DEFAULT",
    "HARD_LABEL_LOSSES",
    "MARGIN_LOSSES",
    "RESPONSE_LOSSES",
    "UNSMOOTHED_LOSSES",
    "WINNER",
    "WITHOUT_REFERENCE",
    "ActiveConfig",
    "ArmConfig",
    "BudgetConfig",
    "CallLimits",
    "CampaignConfig",
    "CampaignSftConfig",
    "ChecksConfig",
    "ConstraintsConfig",
    "EndpointConfig",
    "EvaluationConfig",
    "FeedbackConfig",
    "FunctionConfig",
    "GateConfig",
    "GenerationConfig",
    "HeldOutBy",
    "JudgeConfig",
    "JudgeSettings",
    "JurorConfig",
    "LauncherConfig",
    "Limit",
    "LoraConfig",
    "LossName",
    "ParameterConfig",
    "PeopleConfig",
    "PolicyConfig",
    "PreferencesConfig",
    "PromptsConfig",
    "RegressionConfig",
    "RewardModelConfig",
    "SamplingEngine",
    "Section",
    "SftConfig",
    "SoftPromptConfig",
    "StudyConfig",
    "SweepConfig",
    "Takes",
    "TrackingConfig",
    "TrainingConfig",
    "ValidationConfig",
    "at",
    "describe",
    "differences",
    "flat",
    "load_config",
    "load_section",
    "load_settings",
    "load_study",
    "load_sweep",
    "read_settings",
]
