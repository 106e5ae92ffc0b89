"""The steps of preference collection alone, on a user's own files: judge and pair, pair again, calibrate."""
