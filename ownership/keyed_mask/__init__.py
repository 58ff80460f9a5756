"""Scheme V4: keyed signs spread over the mask (docs/keyed_mask.md)."""
