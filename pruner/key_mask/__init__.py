"""V1: a key mask split off the ticket, and the scores that choose it."""
