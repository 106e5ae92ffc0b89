"""Validation: what a preference pair must satisfy before it is trained on, and the quarantine of those that do not."""
