"""The built-in campaign: a small world of customer messages with an exact judge, and the starter model that is trained on it."""
