"""MAKE: masks, magnitude pruning, the search for winning tickets, and the code written into their masks."""
