"""Let people compare answers in a browser, and publish their votes for the round that waits for them."""
