"""Active preferences: which pairs go to a costly judge, and how its verdicts change them."""
