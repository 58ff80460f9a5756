"""Scheme P: the signature that a network with passports has in the signs of its weights' products (docs/passports.md)."""
