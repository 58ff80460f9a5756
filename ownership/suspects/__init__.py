"""A suspect's file, whatever it is: reading, numbering, answers. Knows no scheme."""
