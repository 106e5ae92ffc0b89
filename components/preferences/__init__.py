"""Preference pairs: built from judged responses, or read from a data set that seeds a campaign's first round."""
