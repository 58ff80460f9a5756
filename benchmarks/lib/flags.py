"""Values of flags that several benchmarks have. Imports no torch, so `--help` answers at once."""

CIFAR = 45000, 5000, 10000  # training, validation and test pictures: what an epoch consists of
