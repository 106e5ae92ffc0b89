"""Search for the values of a campaign's keys: the search itself, the prompts it may see, and its report."""
