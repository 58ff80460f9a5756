"""PROVE: claims, and reading signatures back out of suspect models."""
