"""When something was there at the latest: RFC 3161 tokens and OpenTimestamps proofs of a message, asked for and checked.

The message of a commitment is its root, 32 bytes; of any other file its bytes. A token is an authority's signed word, a proof
the way from the message's SHA-256 to a block of the Bitcoin chain. Both are checked without a network, against what the arbiter
brings: the certificates he trusts, and block headers. Files and answers are strangers': they are bounded before they are read.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from utils import checkpoint
from utils.checkpoint import FileBytes
from utils.errors import UserError

TOKEN_FILE, PROOF_FILE = "commitment.tsr", "commitment.ots"  # beside commitment.json
MAX_BYTES = 1 << 16  # of a token or a proof: both have a few thousand
MAX_TRUSTED = 1 << 20  # of certificates, or of block headers
TIMEOUT = 30.0  # seconds for each answer of an authority or a calendar
BLOCK_CLOCK = timedelta(hours=2)  # the clock of a block may run that far behind what its miners accepted
OTS_MAGIC = b"\x00OpenTimestamps"


@dataclass(frozen=True)
class Dated:
    """A verified date. before: the message existed by then (UTC). by: who says so, in words, and on what it rests."""

    before: datetime
    by: str

    def __str__(self) -> str:
        return f"before {in_utc(self.before)}, says {self.by}"


def in_utc(when: datetime) -> str:
    """A time for people, which has a time zone of its own."""
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Trust:
    """What an arbiter brings to check dates with.

    certificates: a PEM file of the authorities' root and intermediate certificates. headers: a file of Bitcoin block headers, 160
    hexadecimal digits a line, as `bitcoin-cli getblockheader HASH false` prints them.
    """

    certificates: str | FileBytes | None = None
    headers: str | FileBytes | None = None


# --- asking -----------------------------------------------------------------------------------------------------------


def ask_authority(url: str, message: bytes) -> bytes:
    """The answer (DER) of an RFC 3161 authority over the SHA-256 of a message.

    Its chain is not checked here, since whom to trust is the arbiter's to say; that it answers this very question is.
    Raises UserError, naming `url`, for an authority that can't be reached, refuses, or answers something else.
    """
    import urllib.error
    import urllib.request

    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    asked = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
    request = urllib.request.Request(url, asked.as_bytes(), {"Content-Type": "application/timestamp-query"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            raw = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"--timestamp {url}: gave no answer ({getattr(error, 'reason', None) or error})") from None
    where = f"--timestamp {url}: its answer"
    response = _parsed(raw, where)
    if response.tst_info.nonce != asked.nonce:
        raise UserError(f"{where} has another nonce than was asked with: it is an old one, or another question's")
    _check_imprint(response, message, where)
    return raw


def ask_calendars(urls: Sequence[str], message: bytes) -> bytes:
    """A proof over the SHA-256 of a message, pending until the calendars' next block (hours), see `complete`.

    Raises UserError, naming `--opentimestamps`, where no calendar answers.
    """
    from opentimestamps.calendar import RemoteCalendar
    from opentimestamps.core.op import OpSHA256
    from opentimestamps.core.timestamp import DetachedTimestampFile, Timestamp

    proof = DetachedTimestampFile(OpSHA256(), Timestamp(hashlib.sha256(message).digest()))
    failures = []
    for url in urls:
        try:
            proof.timestamp.merge(RemoteCalendar(_as_folder(url)).submit(proof.file_digest, timeout=TIMEOUT))
        except Exception as error:  # a stranger's answer can fail in any way that the library knows
            failures.append(f"{url} ({error})")
    if len(failures) == len(urls):
        raise UserError(f"--opentimestamps: no calendar answered: {'; '.join(failures)}")
    return _serialized(proof)


def complete(path: str | Path) -> tuple[bytes, bool]:
    """Ask the calendars that a pending proof names for the rest of the way to a block.

    Returns:
        the proof, and whether it now leads to a block.
    Raises:
        UserError: the file is no proof.
    """
    from opentimestamps.calendar import RemoteCalendar
    from opentimestamps.core.notary import PendingAttestation

    proof = _parsed_proof(_read(path), str(path))
    for node, attestation in list(_nodes(proof.timestamp)):
        # only the web: the address stands in a file
        if isinstance(attestation, PendingAttestation) and re.match(r"https?://", attestation.uri):
            try:
                node.merge(RemoteCalendar(_as_folder(attestation.uri)).get_timestamp(node.msg, timeout=TIMEOUT))
            except Exception:  # not there yet, or the calendar is down: it stays pending
                continue
    return _serialized(proof), bool(_blocks(proof.timestamp))


# --- checking ---------------------------------------------------------------------------------------------------------


def read_date(path: str | Path | FileBytes, message: bytes, trust: Trust) -> Dated:
    """What a token or a proof says of a message, by what the arbiter trusts.

    Raises UserError, naming the file and the true reason: it is neither, or another message's; the authority is not one of the
    arbiter's, or its certificate had expired or is not for timestamps; the proof is pending, or its block is not brought.
    """
    raw = _read(path)
    return (_proven if raw.startswith(OTS_MAGIC) else _signed)(raw, str(path), message, trust)


def is_of(path: str | Path | FileBytes, message: bytes) -> bool:
    """Whether a token or a proof is over this message, right or wrong. Raises UserError for a file that is neither."""
    raw = _read(path)
    if raw.startswith(OTS_MAGIC):
        return _parsed_proof(raw, str(path)).file_digest == hashlib.sha256(message).digest()
    return _imprint_fits(_parsed(raw, str(path)), message)


def _signed(raw: bytes, where: str, message: bytes, trust: Trust) -> Dated:
    """An RFC 3161 token's date."""
    from rfc3161_client import VerificationError, VerifierBuilder

    response = _parsed(raw, where)
    _check_imprint(response, message, where)
    if trust.certificates is None:
        raise UserError(f"{where}: whose word counts is the arbiter's to say; give --tsa_certificates with the authority's chain")
    try:
        VerifierBuilder(roots=_certificates(trust.certificates)).build().verify_message(response, message)
    except (VerificationError, ValueError) as error:
        verified = re.search(r"Verify error: ([^\"]*)", str(error))
        reason = verified[1] if verified else str(error).partition(": ErrorStack")[0]
        raise UserError(f"{where}: is not vouched for by --tsa_certificates {trust.certificates}: {reason}") from None
    info = response.tst_info
    margin = timedelta() if info.accuracy is None else timedelta(seconds=(info.accuracy.seconds or 0) + 1)
    policy = info.policy.dotted_string  # what the authority promises, by a number of its own
    return Dated(info.gen_time + margin, f"{_signer(response, trust.certificates)} (RFC 3161, policy {policy})")


def _proven(raw: bytes, where: str, message: bytes, trust: Trust) -> Dated:
    """An OpenTimestamps proof's date: the earliest of its blocks that the arbiter brings."""
    proof = _parsed_proof(raw, where)
    if proof.file_digest != hashlib.sha256(message).digest():
        raise UserError(f"{where}: is a proof about something else, not about this")
    blocks = _blocks(proof.timestamp)
    if not blocks:
        raise UserError(f"{where}: is still pending, no block holds it yet; scripts/add_timestamp.py --opentimestamps completes it "
                        "some hours after it was made")
    heights = ", ".join(str(height) for height in blocks.values())
    if trust.headers is None:
        raise UserError(f"{where}: needs the header of Bitcoin block {heights}; give --block_headers")
    dates = [(stamped, blocks[root]) for root, stamped in _headers(trust.headers) if root in blocks]
    if not dates:
        raise UserError(f"{where}: leads to no header in --block_headers {trust.headers}; it needs that of Bitcoin block {heights}")
    stamped, height = min(dates)
    return Dated(stamped + BLOCK_CLOCK, f"Bitcoin block {height} (OpenTimestamps; that the header is the chain's says who brought "
                                        f"{trust.headers})")


def _parsed(raw: bytes, where: str):
    """A granted RFC 3161 answer."""
    from rfc3161_client import decode_timestamp_response

    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        response = decode_timestamp_response(raw)
        if response.status:
            raise ValueError(f"the authority refused, status {response.status}")
        response.tst_info  # parsed only here
    except ValueError as error:
        raise UserError(f"{where}: is neither an RFC 3161 answer nor an OpenTimestamps proof ({error})") from None
    return response


def _parsed_proof(raw: bytes, where: str):
    from opentimestamps.core.op import OpSHA256
    from opentimestamps.core.serialize import BytesDeserializationContext
    from opentimestamps.core.timestamp import DetachedTimestampFile

    try:
        context = BytesDeserializationContext(raw)
        proof = DetachedTimestampFile.deserialize(context)
        context.assert_eof()
        if not isinstance(proof.file_hash_op, OpSHA256):
            raise ValueError("its digest is no SHA-256")
    except Exception as error:  # a hostile file can fail in any way that the library knows
        raise UserError(f"{where}: is no OpenTimestamps proof that can be read ({error or type(error).__name__})") from None
    return proof


def _serialized(proof) -> bytes:
    from opentimestamps.core.serialize import BytesSerializationContext

    context = BytesSerializationContext()
    proof.serialize(context)
    return context.getbytes()


def _nodes(timestamp):
    """Every node of a proof with each of its attestations."""
    for attestation in timestamp.attestations:
        yield timestamp, attestation
    for child in timestamp.ops.values():
        yield from _nodes(child)


def _blocks(timestamp) -> dict[bytes, int]:
    """Merkle root -> height of the Bitcoin blocks that a proof leads to."""
    from opentimestamps.core.notary import BitcoinBlockHeaderAttestation

    return {node.msg: attestation.height for node, attestation in _nodes(timestamp)
            if isinstance(attestation, BitcoinBlockHeaderAttestation)}


def _headers(path: str | FileBytes) -> list[tuple[bytes, datetime]]:
    """Merkle root and time of each header in a file."""
    from bitcoin.core import CBlockHeader

    text = (checkpoint.read_bounded(path, MAX_TRUSTED, regular=True) or b"-").decode("ascii", "replace")
    lines = text.split()
    if not lines or not all(re.fullmatch(r"[0-9a-fA-F]{160}", line) for line in lines):
        raise UserError(f"--block_headers {path}: must hold block headers, 160 hexadecimal digits a line, as bitcoin-cli "
                        "getblockheader HASH false prints them")
    headers = [CBlockHeader.deserialize(bytes.fromhex(line)) for line in lines]
    return [(header.hashMerkleRoot, datetime.fromtimestamp(header.nTime, timezone.utc)) for header in headers]


def _certificates(path: str | FileBytes):
    from cryptography import x509

    try:
        certificates = x509.load_pem_x509_certificates(checkpoint.read_bounded(path, MAX_TRUSTED, regular=True) or b"")
    except ValueError as error:
        raise UserError(f"--tsa_certificates {path}: holds no PEM certificates ({error})") from None
    return certificates


def _signer(response, certificates: str | FileBytes) -> str:
    """The name in the certificate that signed a verified answer."""
    from cryptography import x509

    signed = response.signed_data
    (signer,) = signed.signer_infos
    chain = [*map(x509.load_der_x509_certificate, signed.certificates), *_certificates(certificates)]
    leaf = next(one for one in chain if (one.issuer, one.serial_number) == (signer.issuer, signer.serial_number))
    return leaf.subject.rfc4514_string()


def _imprint_fits(response, message: bytes) -> bool:
    imprint = response.tst_info.message_imprint
    hashed = {hashlib.new(name, message).digest() for name in ("sha256", "sha384", "sha512")}
    return imprint.message in hashed


def _check_imprint(response, message: bytes, where: str) -> None:
    if not _imprint_fits(response, message):
        raise UserError(f"{where}: is a timestamp of something else, not of this")


def _read(path: str | Path | FileBytes) -> bytes:
    raw = checkpoint.read_bounded(path, MAX_BYTES, regular=True)
    if raw is None:
        raise UserError(f"{path}: is larger than {MAX_BYTES} bytes, so no timestamp")
    return raw


def _as_folder(url: str) -> str:
    return url.rstrip("/") + "/"  # the library joins paths as browsers do


# --- beside a commitment ----------------------------------------------------------------------------------------------


def stamp(commitment_path: str | Path, root: bytes, authority: str | None, calendars: Sequence[str] | None) -> list[Path]:
    """Date a commitment: write a token and a proof beside it, or complete a proof that is there and pending.

    Args:
        root: of the commitment, 32 bytes.
        authority: address of an RFC 3161 authority. calendars: addresses of OpenTimestamps calendars. None: do not ask.
    Returns:
        the files written.
    Raises:
        UserError: as `ask_authority` and `ask_calendars`; a token is there already; a proof is there for something else, is
            complete, or still has to wait.
    """
    folder, written = Path(commitment_path).parent, []
    token, proof = folder / TOKEN_FILE, folder / PROOF_FILE
    if authority is not None:
        if token.exists():
            raise UserError(f"{token}: is there already, and the older date is the better one; move it away to ask for another")
        content = ask_authority(authority, root)
        checkpoint.write_atomic(token, lambda file: file.write(content))
        written.append(token)
    if calendars is not None:
        if not proof.exists():
            content = ask_calendars(calendars, root)
        else:
            if not is_of(proof, root):
                raise UserError(f"{proof}: is a proof about something else, not about {commitment_path}; move it away")
            if _blocks(_parsed_proof(_read(proof), str(proof)).timestamp):
                raise UserError(f"{proof}: is complete; nothing is left to do")
            content, leads_to_block = complete(proof)
            if not leads_to_block:
                raise UserError(f"{proof}: is still pending; calendars take some hours, ask again later")
        checkpoint.write_atomic(proof, lambda file: file.write(content))
        written.append(proof)
    return written
