"""Compare ways to train over seeds: what each arm's campaigns reached, the means with intervals, and their report."""
