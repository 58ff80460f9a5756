"""Commitments, an owner's claim, and the verdict on it."""
