"""What people do with a campaign's past.

Compare rounds, follow a model's lineage, roll the champion back, free the disk.
"""
