"""V3: a suspect's answers on a trigger set, and what they are worth."""
