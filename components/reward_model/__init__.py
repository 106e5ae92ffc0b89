"""A reward model of one's own: a Bradley-Terry head trained on preference pairs, which then serves as judge."""
