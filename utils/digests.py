"""What hashes draw from, and stand for: lists of parts."""

import hashlib

NONCE_BYTES = 16  # of what an owner's key adds to a draw, so that nobody else can foresee it


def sha256_of_parts(*parts: bytes) -> bytes:
    """SHA-256 of parts, each behind its length in 8 bytes, big-endian, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
