"""Keep what users of a served model say about its answers, and choose what a round may train on."""
