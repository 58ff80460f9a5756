"""Dates of commitments: tokens by a real authority (openssl ts) on loopback, proofs by a calendar and block headers made here."""

import hashlib
import html
import json
import re
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

from ownership.claims import arbiter, commitment, rivals, timestamps
from ownership.claims.owner_claim import OwnerClaim
from ownership.claims.timestamps import Dated, Trust, read_date
from ownership.claims.verdict import OWNED, Standing, Verdict
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

    def sign(self, token: bytes, signer: str, when: datetime | None = None) -> bytes:
        """What a token says, signed by somebody; with another time in it where one is given. openssl ts would not, openssl cms
        does."""

        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

        (self.folder / "statement").write_bytes(token)
        openssl("ts", "-reply", "-in", "statement", "-token_out", "-out", "token")
        openssl("cms", "-verify", "-noverify", "-inform", "DER", "-in", "token", "-out", "content")
        if when is not None:
            content, count = re.subn(rb"\d{14}Z", f"{when:%Y%m%d%H%M%S}Z".encode(), (self.folder / "content").read_bytes())
            assert count == 1
            (self.folder / "content").write_bytes(content)
        openssl("cms", "-sign", "-binary", "-nodetach", "-econtent_type", "id-smime-ct-TSTInfo", "-cades", "-md", "sha256", "-outform",
                "DER", "-signer", f"{signer}.pem", "-inkey", f"{signer}.key", "-in", "content", "-out", "token")
        signed = b"\x30\x03\x02\x01\x00" + (self.folder / "token").read_bytes()  # status: granted
        return b"\x30\x82" + len(signed).to_bytes(2, "big") + signed

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
    assert dated.by == "CN=Authority good (RFC 3161, policy 1.2.3.4.1)"
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
    """The same statement signed by a web server's certificate of the same root."""
    for signer in ("good", "web"):
        (tmp_path / signer).write_bytes(authority.sign(token().read_bytes(), signer))
    assert read_date(tmp_path / "good", MESSAGE, authority.trust()).by.startswith("CN=Authority good")
    with pytest.raises(UserError, match="certificate purpose|KeyPurposeID"):
        read_date(tmp_path / "web", MESSAGE, authority.trust())


def test_certificates_must_be_valid_when_the_token_was_made_not_today(authority, token, tmp_path):
    """An authority's token outlives its certificate; and none can be from before there was one."""
    when = (datetime.now(timezone.utc) - timedelta(days=3)).replace(microsecond=0)
    for signer in ("expired", "good"):
        (tmp_path / signer).write_bytes(authority.sign(token().read_bytes(), signer, when))
    assert read_date(tmp_path / "expired", MESSAGE, authority.trust()).before - when <= timedelta(seconds=6)
    with pytest.raises(UserError, match="not yet valid"):
        read_date(tmp_path / "good", MESSAGE, authority.trust())


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


# --- in a verdict -----------------------------------------------------------------------------------------------------


def later(hours: float) -> datetime:
    """So long after MINED."""
    return MINED + timedelta(hours=hours)


class Court:
    """Claims with trigger sets alone, which own if they were committed to and don't else, and all that dates them."""

    def __init__(self, run_main, owner, authority, folder):
        self.run_main, self.owner, self.authority, self.folder = run_main, owner, authority, folder
        self.headers = folder / "headers.txt"

    def root(self, name: str) -> bytes:
        return commitment.read_commitment(self.folder / name / "commitment.json").root

    def proof(self, message: bytes, when: datetime) -> Path:
        """An OpenTimestamps proof by a block of that time, whose header joins the others."""
        proof = DetachedTimestampFile(OpSHA256(), Timestamp(hashlib.sha256(message).digest()))
        path = self.folder / f"{proof.file_digest.hex()[:8]} {when.timestamp()}.ots"
        held = proof.timestamp.ops.add(OpAppend(b"the rest of the block")).ops.add(OpSHA256())
        held.attestations.add(BitcoinBlockHeaderAttestation(HEIGHT))
        context = BytesSerializationContext()
        proof.serialize(context)
        path.write_bytes(context.getbytes())
        with open(self.headers, "a") as file:
            file.write(CBlockHeader(2, bytes(32), held.msg, int(when.timestamp()), 0x1D00FFFF, 7).serialize().hex() + "\n")
        return path

    def token(self, message: bytes, name: str = "token.tsr", signer: str = "good") -> Path:
        query = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
        (self.folder / name).write_bytes(self.authority.answer(query.as_bytes(), signer))
        return self.folder / name

    def ask(self, *words, names=("jane",), answers="right.csv", suspect=None):
        """main_verify.py on these claims, by lists of answers or a suspect's file."""
        claims = [word for name in names for word in ("--claim", self.folder / name / "claim.json", "--commitment",
                                                      self.folder / name / "commitment.json")]
        of_suspect = ["--suspect", suspect] if suspect else ["--predictions", self.owner / answers] * len(names)
        key = ["--trigger_key", self.owner / "trigger.key"]
        return self.run_main("main_verify.py", *claims, *([word for pair in zip(of_suspect[::2], of_suspect[1::2]) for word in pair]),
                             *key, "--json", self.folder / "out.json", "--report", self.folder / "page.html", *words)

    def by_blocks(self, *paths) -> list:
        return ["--block_headers", self.headers, *(word for path in paths for word in ("--timestamp", path))]

    def by_authority(self, *paths) -> list:
        return ["--tsa_certificates", self.authority.roots, *(word for path in paths for word in ("--timestamp", path))]

    @property
    def written(self) -> dict:
        return json.loads((self.folder / "out.json").read_text())

    def said(self, done) -> list[str]:
        """All media: what is printed, the JSON, and the page as text."""
        return [done.stdout, (self.folder / "out.json").read_text(), html.unescape((self.folder / "page.html").read_text())]


@pytest.fixture(scope="module")
def claims(run_main, owner, tmp_path_factory):
    """A folder with one of Jane's and one of John's."""
    folder = tmp_path_factory.mktemp("claims")
    for name in ("jane", "john"):
        done = run_main("make_claim.py", "--owner", name, "--v3", owner / "triggers", "--trigger_key", owner / "trigger.key",
                        "--save_dir", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def court(run_main, owner, authority, claims, tmp_path):
    shutil.copytree(claims, tmp_path, dirs_exist_ok=True)
    return Court(run_main, owner, authority, tmp_path)


def test_a_verdict_says_when_and_who_says_so(court):
    done = court.ask(*court.by_authority(court.token(court.root("jane"))))
    assert done.returncode == 0, done.stderr
    date = read_date(court.folder / "token.tsr", court.root("jane"), court.authority.trust())
    for text in court.said(done):
        assert f"committed {date}; this holds only if the suspect" in text
        assert "says CN=Authority good (RFC 3161, policy 1.2.3.4.1)" in text and "no date of it was given" not in text
    assert court.written["facts"]["committed"] == str(date)
    inputs = {row["input"]: row["sha256"] for row in court.written["inputs"]}
    assert inputs["--timestamp"] == hashlib.sha256((court.folder / "token.tsr").read_bytes()).hexdigest()
    assert inputs["--tsa_certificates"] == hashlib.sha256(court.authority.roots.read_bytes()).hexdigest()


def test_of_several_dates_the_earliest_counts_and_who_vouches_for_a_header_is_said(court):
    proofs = [court.proof(court.root("jane"), later(hours)) for hours in (5, 1, 3)]
    done = court.ask(*court.by_blocks(*proofs), *court.by_authority(court.token(court.root("jane"))))
    for text in court.said(done):  # two hours for the clock of the block
        assert "before 2026-03-04 08:06:07 UTC, says Bitcoin block 900000" in text
        assert f"that the header is the chain's says who brought {court.headers}" in text


@pytest.mark.parametrize("hours, committed", [(2.5, True), (2, False), (1.5, False)])
def test_a_commitment_counts_that_is_verified_to_be_older_than_the_suspect(court, hours, committed):
    """The proof says two hours after its block at the latest; equal is not older."""
    seen = f"{later(hours):%Y-%m-%dT%H:%M:%S}Z"
    done = court.ask(*court.by_blocks(court.proof(court.root("jane"), MINED)), "--suspect_dated", seen)
    assert done.returncode == (0 if committed else 1)
    assert court.written["checks"][0]["log2_choices"]["keys"] == (40 if committed else 80)
    for text in court.said(done):
        assert ("not shown to be committed to before the suspect was there" in text) is not committed
        assert f"{later(hours):%Y-%m-%d %H:%M:%S} UTC is the word of whoever judges" in text


def test_who_keeps_his_date_back_gains_nothing(court):
    """Beside a date of the suspect, a commitment without one counts as one of today."""
    assert court.ask().returncode == 0
    done = court.ask("--suspect_dated", "2026-03-04")
    assert done.returncode == 1 and "not shown to be committed to before the suspect" in done.stdout


def test_rivals_are_ordered_by_verified_dates(court):
    early, late = court.proof(court.root("john"), MINED), court.proof(court.root("jane"), later(1))
    for names, stamps in ((("jane", "john"), [late, early]), (("john", "jane"), [early]), (("jane", "john"), [early])):
        done = court.ask(*court.by_blocks(*stamps), names=names)
        found = court.written
        assert [claim["facts"]["claimed by"] for claim in found["claims"]] == ["john", "jane"], (names, stamps)
        assert [claim["later"] for claim in found["claims"]] == [False, True] and found["rivals"]["owner"] == "first"
        assert done.returncode == 0 and "goes by the order of --claim" not in done.stdout
        notes = " ".join(found["rivals"]["notes"])
        assert ("nothing verified shows how old the other one is" if len(stamps) == 1 else "by the verified dates") in notes
    court.ask(names=("jane", "john"))
    assert court.written["claims"][0]["facts"]["claimed by"] == "jane"
    assert "goes by the order of --claim" in " ".join(court.written["rivals"]["notes"])


def test_predictions_stay_with_their_claims_when_dates_turn_the_order(court):
    words = court.by_blocks(court.proof(court.root("john"), MINED))
    claims = [word for name in ("jane", "john") for word in ("--claim", court.folder / name / "claim.json", "--commitment",
                                                             court.folder / name / "commitment.json")]
    done = court.run_main("main_verify.py", *claims, "--predictions", court.owner / "wrong.csv", "--predictions",
                          court.owner / "right.csv", "--trigger_key", court.owner / "trigger.key", *words)
    assert done.returncode == 0 and "the first claim (john) owns; the second does not show" in done.stdout


def test_of_two_equal_dates_neither_is_the_earlier(court):
    """Both in one block: 30 pictures don't pay for a claim that may have been made up afterwards, and nobody owns."""
    done = court.ask(*court.by_blocks(court.proof(court.root("jane"), MINED), court.proof(court.root("john"), MINED)),
                     names=("jane", "john"))
    assert done.returncode == 1
    for text in court.said(done):
        assert "both commitments have the same verified date, so neither is the earlier" in text
    assert [claim["checks"][0]["log2_choices"]["keys"] for claim in court.written["claims"]] == [80, 80]


def test_marks_of_equal_dates_that_are_there_own_nothing():
    dated = Dated(MINED, "somebody")
    sides = [arbiter.Side(arbiter.Opened(name, None, OwnerClaim(name, None, "res20s"), None, dated=dated),
                          Verdict(OWNED, (), None, 1e-9, ()), {}, Standing.TIED) for name in ("jane", "john")]
    assert rivals.conclude(sides) == (None, "both show; their commitments have the same verified date, so nothing tells which is the "
                                            "earlier")


def test_a_date_does_not_need_the_claims_in_order(court, refused):
    claims = ("--claim", court.folder / "jane/claim.json", "--claim", court.folder / "john/claim.json", "--commitment",
              court.folder / "john/commitment.json")
    words = ("main_verify.py", *claims, *["--predictions", court.owner / "right.csv"] * 2, "--trigger_key", court.owner / "trigger.key")
    assert "name the other one first" in refused(court.run_main(*words))
    done = court.run_main(*words, *court.by_blocks(court.proof(court.root("john"), MINED)))
    assert done.returncode == 0 and "the first claim (john) owns" in done.stdout


# --- priors


@pytest.fixture
def suspect(owner):
    """The owner's own model, and its claims: drawn by hash, and a trigger set whose key anybody might have ground."""
    return owner / "own.pth.tar"


@pytest.mark.slow
@pytest.mark.parametrize("prior, said, owned", [
    ("2026-03-04", "nothing verified shows the commitment to be older", False),
    ("2026-03-05", "the commitment is older, so this does not count", True),
    ("none", "when that model was made nothing says, so this is told and does not count", True)])
def test_a_claim_that_shows_on_an_older_model_counts_as_not_committed_to(court, suspect, prior, said, owned):
    words = court.by_blocks(court.proof(court.root("jane"), MINED))
    done = court.ask(*words, "--prior", suspect, "--prior_dated", prior, suspect=suspect)
    assert done.returncode == (0 if owned else 1), done.stderr
    for text in court.said(done):
        assert "V3 shows on it already" in text and said in text
        assert ("shown on a model that its commitment is not shown to be older than" in text) is not owned
        assert ("says whoever judges (--prior_dated)" in text) is (prior != "none")


def test_an_undated_commitment_is_older_than_no_dated_prior(court, suspect, owner):
    assert court.ask("--prior", suspect, "--prior_dated", "2026-03-04", suspect=suspect).returncode == 1
    # one on which it does not show takes nothing away
    assert court.ask("--prior", owner / "innocent.pth.tar", "--prior_dated", "2026-03-04", suspect=suspect).returncode == 0


def test_a_claim_that_a_hash_drew_survives_an_older_model_with_it(run_main, owner):
    """The owner's own earlier release in a thief's hand: it is not void."""
    done = run_main("main_verify.py", "--claim", owner / "claim.json", "--commitment", owner / "commitment.json", "--suspect",
                    owner / "pruned.pth.tar", "--prior", owner / "own.pth.tar", "--prior_dated", "2020-01-01", "--restarts", 0)
    assert done.returncode == 0 and "V2 shows on it already" in done.stdout and "2^80" in done.stdout


@pytest.mark.slow
def test_a_prior_takes_no_precedence_away(court, suspect, owner):
    """John signed Jane's release again and hands that release in: hers is still the earlier claim. Own models stay with their claims."""
    words = [*court.by_blocks(court.proof(court.root("jane"), MINED), court.proof(court.root("john"), later(1))), "--own",
             owner / "innocent.pth.tar", "--own", suspect]
    court.ask(*words, "--prior", suspect, "--prior_dated", "2026-01-01", names=("john", "jane"), suspect=suspect)
    found = court.written
    assert found["rivals"]["own_models"]["files"] == [str(suspect), str(owner / "innocent.pth.tar")]
    assert [claim["facts"]["claimed by"] for claim in found["claims"]] == ["jane", "john"] and found["claims"][1]["later"]


def test_a_prior_is_dated_by_a_token_over_its_file(court, suspect, refused, owner):
    token = court.token(suspect.read_bytes(), "prior.tsr")
    words = ("--tsa_certificates", court.authority.roots, "--prior_dated", token)
    done = court.ask(*words, "--prior", suspect, suspect=suspect)
    assert done.returncode == 1 and "says CN=Authority good" in done.stdout
    assert "--prior_dated" in {row["input"] for row in court.written["inputs"]}
    message = refused(court.ask(*words, "--prior", owner / "pruned.pth.tar", suspect=suspect))
    assert f"--prior_dated {token}: is a timestamp of something else" in message


def test_a_prior_that_can_not_be_read_is_bad_input(court, suspect, refused, tmp_path):
    (tmp_path / "bad.pth.tar").write_text("no model")
    assert "--prior" in refused(court.ask("--prior", tmp_path / "bad.pth.tar", suspect=suspect))


# --- bad input


@pytest.mark.parametrize("words, message", [
    ("--timestamp other.tsr --tsa_certificates roots", "--timestamp {0}/other.tsr: is a date of something else"),
    ("--timestamp john.tsr --tsa_certificates roots", "--timestamp {0}/john.tsr: is a date of something else"),
    ("--timestamp jane.tsr --timestamp john.tsr --tsa_certificates roots", "--timestamp {0}/john.tsr: is a date of something else"),
    ("--timestamp expired.tsr --tsa_certificates roots", "certificate has expired"),
    ("--timestamp self.tsr --tsa_certificates roots", "is not vouched for by --tsa_certificates"),
    ("--timestamp jane.tsr --tsa_certificates others", "is not vouched for by --tsa_certificates"),
    ("--timestamp jane.tsr", "give --tsa_certificates"),
    ("--timestamp nonce.tsr --tsa_certificates roots", "is not vouched for by --tsa_certificates"),
    ("--timestamp policy.tsr --tsa_certificates roots", "is not vouched for by --tsa_certificates"),
    ("--timestamp garbage --tsa_certificates roots", "--timestamp {0}/garbage: is neither an RFC 3161 answer nor an OpenTimestamps"),
    ("--timestamp large --tsa_certificates roots", "--timestamp {0}/large: is larger than 65536 bytes"),
    ("--timestamp none --tsa_certificates roots", "--timestamp none: no such file"),
    ("--timestamp jane.tsr --tsa_certificates garbage", "--tsa_certificates {0}/garbage: holds no PEM certificates"),
    ("--timestamp jane.tsr --tsa_certificates large", "--tsa_certificates {0}/large: "),
    ("--timestamp jane.ots", "give --block_headers"),
    ("--timestamp jane.ots --block_headers garbage", "--block_headers {0}/garbage: must hold block headers"),
    ("--timestamp john.ots --block_headers headers.txt", "--timestamp {0}/john.ots: is a date of something else"),
    ("--tsa_certificates roots", "there is no token or proof to check by it"),
    ("--suspect_dated yesterday", "argument --suspect_dated: 'yesterday': must be a date, as 2026-03-01"),
    ("--suspect_dated 2026-13-01", "must be a date"),
    ("--prior_dated 2026-03-01", "argument --prior_dated: given 1 times, --prior 0 times"),
    ("--prior own --prior_dated soon", "argument --prior_dated: 'soon': must be a date, as 2026-03-01"),
    ("--prior own --prior own --prior_dated none", "argument --prior_dated: given 1 times, --prior 2 times")])
def test_a_date_that_does_not_hold_is_one_line_and_no_verdict(bad_dates, refused, words, message):
    court, paths = bad_dates
    done = court.ask(*(paths.get(word, word) for word in words.split()), suspect=court.owner / "own.pth.tar")
    assert message.format(court.folder) in refused(done) and "verdict" not in done.stdout
    assert not (court.folder / "out.json").exists() and not (court.folder / "page.html").exists()


@pytest.fixture(scope="module")
def bad_dates(run_main, owner, authority, claims, tmp_path_factory):
    """The court, and files by name that date Jane's commitment, or pretend to."""
    folder = shutil.copytree(claims, tmp_path_factory.mktemp("bad dates"), dirs_exist_ok=True)
    court, others = Court(run_main, owner, authority, folder), Authority(tmp_path_factory.mktemp("others"))
    root = court.root("jane")
    for name, message in (("jane", root), ("john", court.root("john")), ("other", b"another file")):
        court.token(message, f"{name}.tsr")
    court.token(root, "expired.tsr", "expired")
    (folder / "self.tsr").write_bytes(others.answer(TimestampRequestBuilder().data(root).hash_algorithm(HashAlgorithm.SHA256).build().as_bytes()))
    # what was asked with another nonce, or given under another policy, and altered to look like this
    raw = (folder / "jane.tsr").read_bytes()
    nonce = timestamps._parsed(raw, "").tst_info.nonce.to_bytes(8, "big").lstrip(b"\0")
    for name, part in (("nonce", nonce), ("policy", b"\x06\x04\x2a\x03\x04\x01")):
        assert raw.count(part) == 1
        (folder / f"{name}.tsr").write_bytes(raw.replace(part, part[:-1] + bytes([part[-1] ^ 1])))
    (folder / "garbage").write_bytes(b"0\x82garbage")
    with open(folder / "large", "wb") as file:
        file.truncate(100_000_000)
    for name in ("jane", "john"):
        court.proof(court.root(name), MINED).rename(folder / f"{name}.ots")
    paths = {path.name: path for path in folder.iterdir() if path.is_file()}
    return court, {**paths, "roots": authority.roots, "others": others.roots, "own": owner / "own.pth.tar"}


def test_a_date_needs_a_commitment(court, refused):
    done = court.run_main("main_verify.py", "--claim", court.folder / "jane/claim.json", "--predictions", court.owner / "right.csv",
                          "--timestamp", "any")
    assert "argument --timestamp: is the date of a --commitment" in refused(done)


def test_a_token_of_a_refused_claim_stops_nobody(court):
    """Jane's claim was changed: her token is about no commitment that opens, John's stays what it is."""
    stamps = court.by_authority(court.token(court.root("jane")), court.token(court.root("john"), "john.tsr"))
    path = court.folder / "jane/claim.json"
    content = json.loads(path.read_text())
    content["fields"]["owner"]["value"] = "jack"
    path.write_bytes(commitment._text(content))
    done = court.ask(*stamps, names=("jane", "john"))
    assert done.returncode == 0 and "the first claim (john) owns; the second is refused" in done.stdout, done.stderr
    assert "token.tsr: is about no commitment that a claim opens; it was not used" in done.stdout


# --- a suspect that can't be read


@pytest.mark.parametrize("names", [("jane",), ("jane", "john")])
def test_a_suspect_that_can_not_be_read_is_its_own_verdict(court, names):
    bad = court.folder / "bad.pth.tar"
    bad.write_bytes(b"nothing")
    done = court.ask(names=names, suspect=bad)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1 and f"{bad}: not a usable checkpoint" in done.stderr
    assert re.findall(r"^verdict: +(.*)$", done.stdout, re.M) == ["unreadable"] * len(names)
    found, page = court.written, court.said(done)[2]
    assert [claim["verdict"] for claim in found.get("claims", [found])] == ["unreadable"] * len(names)
    assert "unreadable" in page and "not a usable checkpoint" in page and "not shown" not in page
    inputs = {row["input"]: row["sha256"] for row in found["inputs"]}
    assert inputs["--suspect"] == hashlib.sha256(b"nothing").hexdigest()
    if len(names) == 2:
        assert found["conclusion"] == "the suspect can't be read"


def test_a_missing_suspect_is_a_mistyped_flag(court, refused):
    for path in (court.folder / "none", court.folder):
        refused(court.ask(suspect=path))
        assert not (court.folder / "out.json").exists()


def test_a_refused_claim_stays_refused_beside_a_suspect_that_can_not_be_read(court, owner):
    (court.folder / "bad.pth.tar").write_bytes(b"nothing")
    (court.folder / "john/claim.json").write_text("{")
    done = court.ask(names=("jane", "john"), suspect=court.folder / "bad.pth.tar")
    assert done.returncode == 4 and "the suspect can't be read; the second claim is refused" in done.stdout
