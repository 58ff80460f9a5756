"""BREAK: what an adversary does to a model or a claim, one file per attack."""
