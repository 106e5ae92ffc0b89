"""Supervised fine-tuning on demonstrations, the step before preferences: a model that a campaign then begins with."""
