"""A second word: which pairs go to a costly judge, and what becomes of them."""
