"""What `main_attack.py` runs: an attack done, measured, read as the owner would read it, and written.

Here attacks/ and ownership/ come together, which know nothing of each other. `attacking`: attacks on a model. `forging`: second
claims (`main_attack.py forge`).
"""
