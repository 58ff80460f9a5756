"""Reading files that a stranger made, which may be hostile."""
