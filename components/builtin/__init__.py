"""The built-in campaign.

A small world of customer messages with an exact judge, and the starter model that is trained on it.
"""
