"""V1: whether a key completes a suspect's locked mask."""
