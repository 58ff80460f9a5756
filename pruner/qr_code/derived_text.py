"""A signature that nobody chooses: it follows by SHA-256 from its owner, a nonce and the ticket before it was signed.

A text that is free can be made up to fit any model, or guessed. This one is drawn from all texts of its length, and whoever wants
another one has to try another nonce; so how improbable it is that a model shows it can be computed for any model whatever
(`ownership.qr_code.drawn_text`).
"""

import base64

from pruner.qr_code import geometry as qr_code
from utils.digests import sha256_of_parts

LABEL = "lottery-verification/derived-text/1"  # no digest that was made for another purpose can be taken for one of these
SYMBOLS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # base64url, 6 bits each
LONGEST = 42  # symbols; the digest has 256 bits, and all of a symbol's must be drawn


def derived_text(owner_key: bytes, owner_name: str, nonce: bytes, ticket_sha256: str, length: int) -> str:
    """The text: the first symbols of the digest.

    Args:
        owner_key: Ed25519, public, 32 bytes.
        ticket_sha256: of the ticket that is to be signed, see `pruner.key_mask.split.fingerprint`.
        length: symbols, 1 to LONGEST; see `length_for`.
    """
    digest = sha256_of_parts(LABEL.encode(), owner_key, owner_name.encode("utf-8"), nonce, bytes.fromhex(ticket_sha256))
    return base64.urlsafe_b64encode(digest)[:length].decode("ascii")


def length_for(version: int, error_correction: str) -> int:
    """As many symbols as the code holds, at most LONGEST: 24 at version 3-H."""
    return min(LONGEST, qr_code.capacity(version, error_correction))


def bits(length: int) -> int:
    """log2 of how many texts there are."""
    return 6 * length
