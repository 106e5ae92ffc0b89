"""Preference collection outside a campaign, on a user's own files: judge and pair, pair again, calibrate."""
