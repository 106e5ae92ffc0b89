"""Show a campaign to people: the HTML report, the tables of the command line, and a round's markdown."""
