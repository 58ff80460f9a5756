"""V2: a QR code written into the sparsity pattern of a layer."""
