"""Dates of commitments: tokens by a real authority (openssl ts) on loopback, proofs by a calendar and block headers made here."""

import hashlib
import shutil
import subprocess
import tempfile
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bitcoin.core import CBlockHeader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from opentimestamps.core.notary import BitcoinBlockHeaderAttestation, PendingAttestation
from opentimestamps.core.op import OpAppend, OpPrepend, OpSHA256
from opentimestamps.core.serialize import BytesSerializationContext
from opentimestamps.core.timestamp import DetachedTimestampFile, Timestamp
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from ownership.claims import commitment, timestamps
from ownership.claims.timestamps import Trust, read_date
from utils.errors import UserError

MESSAGE = hashlib.sha256(b"a root").digest()
MINED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
HEIGHT = 900_000
CODE = Path(__file__).parent / "golden/files/code.json"


class Server(ThreadingHTTPServer):
    """`respond(path, body) -> (status, bytes)` on loopback."""

    def __init__(self, respond):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0)) if self.command == "POST" else b""
                status, answer = respond(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def serve():
    """serve(respond) -> the address of a server that answers so, until the test ends."""
    servers = []

    def start(respond) -> str:
        servers.append(Server(respond))
        return servers[-1].url

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# --- a real authority -------------------------------------------------------------------------------------------------


class Authority:
    """Certificates of a root and its authorities, and `openssl ts -reply` with each."""

    CONFIG = ("[tsa]\ndefault_tsa = one\n[one]\nserial = {folder}/serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4.1\n"
              "digests = sha256\naccuracy = secs:5\ness_cert_id_alg = sha256\n")

    def __init__(self, folder):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        (folder / "serial").write_text("01")
        (folder / "ts.cnf").write_text(self.CONFIG.format(folder=folder))
        self.certificate = self.issue("Root", self.key, days=(-10, 10), authority=True)
        self.roots = folder / "roots.pem"
        self.roots.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        for name, days, usage in (("good", (-1, 1), ExtendedKeyUsageOID.TIME_STAMPING), ("expired", (-5, -1),
                                  ExtendedKeyUsageOID.TIME_STAMPING), ("web", (-1, 1), ExtendedKeyUsageOID.SERVER_AUTH)):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self.issue(f"Authority {name}", key, days, usage=usage)
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            (folder / f"{name}.key").write_bytes(key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def issue(self, name, key, days, authority=False, usage=None):
        now = datetime.now(timezone.utc)
        builder = (x509.CertificateBuilder().public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
                   .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Root")]))
                   .not_valid_before(now + timedelta(days[0])).not_valid_after(now + timedelta(days[1]))
                   .add_extension(x509.BasicConstraints(authority, None), critical=True))
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def answer(self, query: bytes, signer: str = "good") -> bytes:
        (self.folder / "query").write_bytes(query)
        subprocess.run(["openssl", "ts", "-reply", "-config", "ts.cnf", "-section", "one", "-queryfile", "query", "-signer",
                        f"{signer}.pem", "-inkey", f"{signer}.key", "-out", "answer"], cwd=self.folder, check=True,
                       capture_output=True)
        return (self.folder / "answer").read_bytes()

    def trust(self) -> Trust:
        return Trust(certificates=str(self.roots))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("no openssl, whose time-stamping authority is the oracle here")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def token(authority, serve, tmp_path):
    """token(signer) -> a file with what that authority answers about MESSAGE."""

    def ask(signer: str = "good"):
        path = tmp_path / f"{signer}.tsr"
        path.write_bytes(timestamps.ask_authority(serve(lambda _, query: (200, authority.answer(query, signer))), MESSAGE))
        return path

    return ask


def test_a_token_says_when_and_who(authority, token):
    before = datetime.now(timezone.utc)
    dated = read_date(token(), MESSAGE, authority.trust())
    assert dated.by == "CN=Authority good (RFC 3161)"
    # to the second, and as late as the authority's own accuracy of 5 s allows
    assert before + timedelta(seconds=4) <= dated.before <= datetime.now(timezone.utc) + timedelta(seconds=6)


def test_openssl_agrees_with_a_token(authority, token):
    done = subprocess.run(["openssl", "ts", "-verify", "-digest", hashlib.sha256(MESSAGE).hexdigest(), "-in", token(),
                           "-CAfile", authority.roots], capture_output=True, text=True)
    assert "Verification: OK" in done.stdout


def test_a_token_of_a_certificate_that_has_expired_is_refused(authority, token):
    with pytest.raises(UserError, match="certificate has expired"):
        read_date(token("expired"), MESSAGE, authority.trust())


def test_a_token_of_a_certificate_for_something_else_is_refused(authority, token, tmp_path):
    """The same statement signed by a web server's certificate of the same root; openssl ts would not, openssl cms does."""

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=authority.folder, check=True, capture_output=True)

    (authority.folder / "statement").write_bytes(token().read_bytes())
    openssl("ts", "-reply", "-in", "statement", "-token_out", "-out", "token")
    openssl("cms", "-verify", "-noverify", "-inform", "DER", "-in", "token", "-out", "content")
    for signer in ("good", "web"):
        openssl("cms", "-sign", "-binary", "-nodetach", "-econtent_type", "id-smime-ct-TSTInfo", "-cades", "-md", "sha256", "-outform",
                "DER", "-signer", f"{signer}.pem", "-inkey", f"{signer}.key", "-in", "content", "-out", "token")
        signed = b"\x30\x03\x02\x01\x00" + (authority.folder / "token").read_bytes()  # status: granted
        (tmp_path / signer).write_bytes(b"\x30\x82" + len(signed).to_bytes(2, "big") + signed)
    assert read_date(tmp_path / "good", MESSAGE, authority.trust()).by.startswith("CN=Authority good")
    with pytest.raises(UserError, match="certificate purpose|KeyPurposeID"):
        read_date(tmp_path / "web", MESSAGE, authority.trust())


def test_a_token_of_a_chain_that_the_arbiter_did_not_name_is_refused(token, tmp_path):
    own = Authority(tmp_path)  # says "Root" of itself too
    with pytest.raises(UserError, match="--tsa_certificates .*certificate signature failure"):
        read_date(token(), MESSAGE, own.trust())


def test_a_token_of_something_else_is_refused(authority, token):
    path = token()
    with pytest.raises(UserError, match="something else"):
        read_date(path, MESSAGE[::-1], authority.trust())
    assert timestamps.is_of(path, MESSAGE) and not timestamps.is_of(path, MESSAGE[::-1])


def test_whose_word_counts_has_to_be_said(token):
    with pytest.raises(UserError, match="--tsa_certificates"):
        read_date(token(), MESSAGE, Trust())


def test_certificates_that_are_none_are_refused(token, tmp_path):
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(UserError, match="--tsa_certificates .*empty.pem"):
        read_date(token(), MESSAGE, Trust(certificates=str(tmp_path / "empty.pem")))


def test_an_altered_token_is_refused(authority, token, tmp_path):
    """Every byte of the signed time, the imprint and the signature counts."""
    raw = token().read_bytes()
    for place in (raw.rindex(hashlib.sha256(MESSAGE).digest()), raw.index(b"Z", raw.index(hashlib.sha256(MESSAGE).digest())) - 1,
                  len(raw) - 1):
        (tmp_path / "altered.tsr").write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1:])
        with pytest.raises(UserError):
            read_date(tmp_path / "altered.tsr", MESSAGE, authority.trust())


def test_an_old_answer_is_refused(authority, serve):
    """Another question's answer about the same message: the nonce differs."""
    answers = []

    def replay(_, query):
        answers.append(authority.answer(query))
        return 200, answers[0]

    url = serve(replay)
    timestamps.ask_authority(url, MESSAGE)
    with pytest.raises(UserError, match="nonce"):
        timestamps.ask_authority(url, MESSAGE)


@pytest.mark.parametrize("status, content", [(500, b""), (200, b""), (200, b"<html>"), (200, bytes(1 << 17))])
def test_an_authority_that_answers_nonsense_is_one_line(serve, status, content):
    with pytest.raises(UserError, match="--timestamp http://127.0.0.1"):
        timestamps.ask_authority(serve(lambda *_: (status, content)), MESSAGE)


@pytest.mark.parametrize("flag", ["--timestamp", "--opentimestamps"])
@pytest.mark.parametrize("url", ["file:///etc/passwd", "freetsa.org", "http://", "ftp://calendar"])
def test_an_address_that_is_none_is_refused(run_main, refused, tmp_path, flag, url):
    words = ("make_claim.py", "--owner", "Jane", "--v2", CODE, "--save_dir", tmp_path / "claim", flag, url)
    assert flag in refused(run_main(*words)) and not (tmp_path / "claim").exists()


# --- a calendar -------------------------------------------------------------------------------------------------------


def serialized(timestamp) -> bytes:
    context = BytesSerializationContext()
    timestamp.serialize(context)
    return context.getbytes()


class Calendar:
    """Takes digests, and has each in a block of its own once `mined` is set."""

    def __init__(self, serve):
        self.mined, self.waiting = False, set()
        self.url = serve(self.respond)

    def respond(self, path: str, body: bytes):
        if path == "/digest":
            timestamp = Timestamp(body)
            held = timestamp.ops.add(OpAppend(b"the calendar's own")).ops.add(OpSHA256())
            held.attestations.add(PendingAttestation(self.url))
            self.waiting.add(held.msg)
            return 200, serialized(timestamp)
        message = bytes.fromhex(path.rpartition("/")[2])
        if not self.mined or message not in self.waiting:
            return 404, b"not yet"
        timestamp = Timestamp(message)
        timestamp.ops.add(OpPrepend(b"a transaction")).ops.add(OpSHA256()).attestations.add(BitcoinBlockHeaderAttestation(HEIGHT))
        return 200, serialized(timestamp)

    @staticmethod
    def merkle_root(message: bytes) -> bytes:
        """Of the block, worked out by hand."""
        held = hashlib.sha256(hashlib.sha256(message).digest() + b"the calendar's own").digest()
        return hashlib.sha256(b"a transaction" + held).digest()


def header_line(merkle_root: bytes) -> str:
    return CBlockHeader(2, bytes(32), merkle_root, int(MINED.timestamp()), 0x1D00FFFF, 7).serialize().hex()


@pytest.fixture
def headers(tmp_path):
    (tmp_path / "headers.txt").write_text(header_line(bytes(32)) + "\n" + header_line(Calendar.merkle_root(MESSAGE)) + "\n")
    return Trust(headers=str(tmp_path / "headers.txt"))


def test_a_proof_is_pending_and_then_leads_to_a_block(serve, tmp_path, headers):
    calendar, path = Calendar(serve), tmp_path / "proof.ots"
    path.write_bytes(timestamps.ask_calendars([calendar.url], MESSAGE))
    with pytest.raises(UserError, match="pending"):
        read_date(path, MESSAGE, headers)
    assert timestamps.complete(path)[1] is False
    calendar.mined = True
    content, leads_to_block = timestamps.complete(path)
    assert leads_to_block
    path.write_bytes(content)
    dated = read_date(path, MESSAGE, headers)
    assert dated.before == MINED + timedelta(hours=2)
    assert str(HEIGHT) in dated.by and "headers.txt" in dated.by  # who vouches for the header


def test_a_proof_needs_its_own_block(serve, tmp_path, headers):
    calendar, path = Calendar(serve), tmp_path / "proof.ots"
    calendar.mined = True
    path.write_bytes(timestamps.ask_calendars([calendar.url], MESSAGE))
    path.write_bytes(timestamps.complete(path)[0])
    with pytest.raises(UserError, match=f"block {HEIGHT}; give --block_headers"):
        read_date(path, MESSAGE, Trust())
    with pytest.raises(UserError, match="something else"):
        read_date(path, MESSAGE[::-1], headers)
    (tmp_path / "headers.txt").write_text(header_line(bytes(32)))
    with pytest.raises(UserError, match=f"leads to no header .*{HEIGHT}"):
        read_date(path, MESSAGE, headers)
    for nonsense in ("", "00" * 79, "header", "00" * 80 + "x"):
        (tmp_path / "headers.txt").write_text(nonsense)
        with pytest.raises(UserError, match="--block_headers"):
            read_date(path, MESSAGE, headers)


def test_one_calendar_that_answers_is_enough(serve):
    calendar = Calendar(serve)
    broken = serve(lambda *_: (200, b"\xff" * 99))
    assert timestamps.ask_calendars([broken, calendar.url], MESSAGE)
    with pytest.raises(UserError, match="no calendar answered"):
        timestamps.ask_calendars([broken], MESSAGE)


@pytest.fixture
def short_folder():
    """A folder whose name may stand in a proof's address: without underscores."""
    with tempfile.TemporaryDirectory(prefix="calendar", dir="/tmp") as folder:
        yield folder


def test_a_proof_never_sends_anybody_to_a_file(tmp_path, short_folder):
    """The address of the calendar stands in the proof, which may be a stranger's."""
    folder = Path(short_folder)
    (folder / "timestamp").mkdir()
    proof = DetachedTimestampFile(OpSHA256(), Timestamp(hashlib.sha256(MESSAGE).digest()))
    mined = Timestamp(proof.file_digest)
    mined.attestations.add(BitcoinBlockHeaderAttestation(HEIGHT))
    (folder / "timestamp" / proof.file_digest.hex()).write_bytes(serialized(mined))
    proof.timestamp.attestations.add(PendingAttestation(f"file://{folder}"))
    (tmp_path / "proof.ots").write_bytes(serialized(proof))
    assert timestamps.complete(tmp_path / "proof.ots")[1] is False


# --- hostile files ----------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_one_error_of_ours(tmp_path_factory, content, proof_like):
    path = tmp_path_factory.getbasetemp() / "garbage"
    head = b"\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94\x01\x08" if proof_like else b""
    path.write_bytes(head + content)
    with pytest.raises(UserError, match="garbage"):
        read_date(path, MESSAGE, Trust())


@pytest.fixture(scope="session")
def sample(authority) -> bytes:
    """An answer about MESSAGE."""
    query = TimestampRequestBuilder().data(MESSAGE).hash_algorithm(HashAlgorithm.SHA256).build()
    return authority.answer(query.as_bytes())


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
def test_a_damaged_token_is_one_error_of_ours(tmp_path_factory, authority, sample, data):
    place, damage = data.draw(st.integers(0, len(sample) - 1)), data.draw(st.binary(min_size=1, max_size=4))
    path = tmp_path_factory.getbasetemp() / "damaged.tsr"
    path.write_bytes(sample[:place] + damage + sample[place + len(damage):])
    try:
        dated = read_date(path, MESSAGE, authority.trust())
    except UserError as error:
        assert "damaged.tsr" in str(error)
    else:  # not everything is signed (the status text is not), but the date is
        path.write_bytes(sample)
        assert dated == read_date(path, MESSAGE, authority.trust())


def test_files_that_are_no_files_and_large_ones_are_refused(tmp_path, authority):
    (tmp_path / "large").write_bytes(bytes(1 << 17))
    for path in (tmp_path / "large", tmp_path / "missing", tmp_path, "/dev/zero"):
        with pytest.raises(UserError):
            read_date(path, MESSAGE, authority.trust())


# --- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture
def committed(tmp_path):
    """The commitment.json of a claim."""
    claim = commitment.salted({"owner": "Jane"})
    return commitment.write(tmp_path / "claim", claim, commitment.commit(claim))[1]


def test_a_commitment_is_dated_by_both(run_script, authority, serve, committed, tmp_path):
    root, calendar = commitment.read_commitment(committed).root, Calendar(serve)
    url = serve(lambda _, query: (200, authority.answer(query)))
    done = run_script("scripts/add_timestamp.py", committed, "--timestamp", url, "--opentimestamps", calendar.url)
    assert done.returncode == 0, done.stderr
    read_date(committed.with_name("commitment.tsr"), root, authority.trust())
    pending = committed.with_name("commitment.ots").read_bytes()
    with pytest.raises(UserError, match="is there already"):  # the older date is the better one
        timestamps.stamp(committed, root, url, None)
    with pytest.raises(UserError, match="still pending"):
        timestamps.stamp(committed, root, None, [calendar.url])
    assert committed.with_name("commitment.ots").read_bytes() == pending
    calendar.mined = True
    assert timestamps.stamp(committed, root, None, [calendar.url]) == [committed.with_name("commitment.ots")]
    (tmp_path / "headers.txt").write_text(header_line(Calendar.merkle_root(root)))
    read_date(committed.with_name("commitment.ots"), root, Trust(headers=str(tmp_path / "headers.txt")))
    with pytest.raises(UserError, match="is complete"):
        timestamps.stamp(committed, root, None, [calendar.url])


def test_a_proof_of_something_else_is_not_completed(serve, committed):
    calendar = Calendar(serve)
    committed.with_name("commitment.ots").write_bytes(timestamps.ask_calendars([calendar.url], MESSAGE))
    with pytest.raises(UserError, match="something else"):
        timestamps.stamp(committed, commitment.read_commitment(committed).root, None, [calendar.url])


def test_a_claim_is_dated_when_it_is_made(run_main, authority, serve, tmp_path):
    url = serve(lambda _, query: (200, authority.answer(query)))
    done = run_main("make_claim.py", "--owner", "Jane", "--v2", CODE, "--save_dir", tmp_path / "claim", "--timestamp", url)
    assert done.returncode == 0, done.stderr
    assert "commitment.tsr (publish it with the commitment)" in done.stdout
    root = commitment.read_commitment(tmp_path / "claim/commitment.json").root
    read_date(tmp_path / "claim/commitment.tsr", root, authority.trust())


def test_a_claim_is_not_lost_where_nobody_dates_it(run_main, refused, serve, tmp_path):
    message = refused(run_main("make_claim.py", "--owner", "Jane", "--v2", CODE, "--save_dir", tmp_path / "claim", "--timestamp",
                               serve(lambda *_: (503, b""))))
    assert "written, undated" in message and "add_timestamp.py" in message
    assert {path.name for path in (tmp_path / "claim").iterdir()} == {"claim.json", "commitment.json"}
