"""What a campaign did, for people: the HTML report, the rows of the command line, a round's markdown, and the plots."""
