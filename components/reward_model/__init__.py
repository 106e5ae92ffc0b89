"""Train a reward model of one's own: a Bradley-Terry head on preference pairs, which then serves as judge."""
