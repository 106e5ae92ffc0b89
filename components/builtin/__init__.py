"""The built-in campaign: a small world of customer messages with an exact judge, and a starter model trained on it."""
