"""Ways to a second claim on a stolen model."""
