"""V2: reading a code back out of a mask, and what its agreement is worth."""
