"""V4: keyed signs over a ticket's mask."""
