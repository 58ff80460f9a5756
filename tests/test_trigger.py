"""Trigger sets: the published one, an owner's own, folders of PNGs, batches that hold exactly the stated mix, training."""

import csv
import hashlib
import hmac
import http.server
import importlib
import io
import json
import math
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from datasets import TRIGGER_SETS, trigger
from datasets.trigger import adi
from datasets.pictures import as_float
from ownership.claims import commitment
from pruner import tickets
from pruner.masks import Mask, prunable_layers
from utils.errors import UserError

KEY = b"a key that only this test has"


def make_adi(folder: Path, labels=(3, 1, 9, 0), size=(40, 36)) -> dict[str, np.ndarray]:
    """A folder laid out as the published set; pixels by file name. Names are numbers, so plain order is not theirs."""
    (folder / "pics").mkdir(parents=True)
    rng, pixels = np.random.default_rng(0), {}
    for name in ("1.png", "2.png", "10.png", "100.png")[:len(labels)]:
        pixels[name] = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels[name]).save(folder / "pics" / name)
    (folder / "labels-cifar.txt").write_text("".join(f"{label:.18e}\n" for label in labels))
    return pixels


# --- the published set ------------------------------------------------------------------------------------------------


def test_line_k_belongs_to_the_kth_name_in_plain_string_order(tmp_path):
    pixels = make_adi(tmp_path / "set")
    found = trigger.load_adi(tmp_path / "set", 10, 32)
    assert found.pictures.labels.tolist() == [3, 1, 9, 0]
    for image, name in zip(found.pictures.images, ("1.png", "10.png", "100.png", "2.png")):
        assert np.array_equal(image, pixels[name][2:34, 4:36]), "the central 32x32 pixels"


def test_the_real_set(test_data):
    folder = test_data / "trigger_set"
    if not folder.is_dir():
        pytest.skip("TEST_DATA holds no trigger_set/")
    assert adi.is_published(folder)
    found = trigger.load_adi(folder, 10, 32)
    lines = [int(float(line)) for line in (folder / "labels-cifar.txt").read_text().split()]
    assert found.pictures.labels.tolist() == lines and len(lines) == 100
    # by hand: the published labels of the first three names, and the centre of one of them by Pillow
    names = sorted(path.name for path in (folder / "pics").iterdir())
    assert names[:3] == ["1.jpg", "10.jpg", "100.jpg"] and names[-1] == "99.jpg" and lines[:3] == [6, 2, 8]
    with Image.open(folder / "pics/100.jpg") as image:
        left, top = (image.width - 32) // 2, (image.height - 32) // 2
        assert np.array_equal(found.pictures.images[2], image.convert("RGB").crop((left, top, left + 32, top + 32)))


def test_a_changed_set_is_not_the_published_one(tmp_path):
    make_adi(tmp_path / "set")
    assert not adi.is_published(tmp_path / "set")


def test_resizing_shows_the_whole_picture(tmp_path):
    folder = tmp_path / "set"
    make_adi(folder, labels=(1,))
    image = Image.new("RGB", (64, 64))
    image.paste((255, 0, 0), (0, 0, 32, 64))
    image.save(folder / "pics/1.png")
    found = trigger.load_adi(folder, 10, 8, resize=True).pictures.images[0]
    assert (found[:, :3, 0] > 200).all() and (found[:, 5:, 0] < 50).all()
    assert (trigger.load_adi(folder, 10, 8).pictures.images[0][:, :4, 0] == 255).all()


def test_labels_of_another_class_count_are_spread_over_all_classes(tmp_path):
    make_adi(tmp_path / "set")
    found = trigger.load_adi(tmp_path / "set", 100, 32)
    expected = [int(hashlib.sha256((tmp_path / "set/pics" / name).read_bytes()).hexdigest(), 16) % 100
                for name in ("1.png", "10.png", "100.png", "2.png")]
    assert found.pictures.labels.tolist() == expected
    assert trigger.load_adi(tmp_path / "set", 100, 32, published_labels=True).pictures.labels.tolist() == [3, 1, 9, 0]
    with pytest.raises(UserError, match="go up to 9, the task has 5"):
        trigger.load_adi(tmp_path / "set", 5, 32, published_labels=True)
    assert max(trigger.load_adi(tmp_path / "set", 5, 32).pictures.labels) < 5


def test_spread_labels_of_the_real_set_use_more_than_ten_classes(test_data):
    labels = trigger.load_adi(test_data / "trigger_set", 100, 32).pictures.labels
    # 100 uniform draws of 100 leave 63.4 distinct on average, standard deviation 3.1
    assert 51 <= len(labels.unique()) <= 76 and labels.max() > 9


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: (folder / "labels-cifar.txt").write_text("1\n2\n3\n"), "4 pictures in pics/, 3 labels"),
    (lambda folder: (folder / "labels-cifar.txt").write_text("1\n2\nx\n4\n"), "line 3 is 'x'"),
    (lambda folder: (folder / "labels-cifar.txt").write_text("1\n2\nnan\n4\n"), "line 3 is 'nan'"),
    (lambda folder: (folder / "labels-cifar.txt").write_text("1\n-2\n3\n4\n"), "line 2 is '-2'"),
    (lambda folder: (folder / "labels-cifar.txt").write_text("1\n2.5\n3\n4\n"), "line 2 is '2.5'"),
    (lambda folder: (folder / "labels-cifar.txt").unlink(), "must hold pics/ and labels-cifar.txt"),
    (lambda folder: (folder / "pics/10.png").write_bytes(b"no picture"), "10.png: not a picture"),
    (lambda folder: Image.new("RGB", (31, 40)).save(folder / "pics/2.png"), "2.png: is 31x40, too small"),
])
def test_a_damaged_set_is_one_line(tmp_path, spoil, message):
    make_adi(tmp_path / "set")
    spoil(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        trigger.load_adi(tmp_path / "set", 10, 32)


@pytest.fixture
def server(tmp_path):
    """An HTTP server on this machine; server(path, bytes) -> URL."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()

    def offer(path: str, body: bytes | None) -> str:
        answers[path] = body
        return f"http://127.0.0.1:{serving.server_address[1]}{path}"

    yield offer
    serving.shutdown()
    serving.server_close()


def zipped(folder: Path, extra: dict[str, bytes] = {}) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"repository-1/data/trigger_set/{path.relative_to(folder)}")
        for name, content in extra.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_the_download_takes_the_set_out_of_its_archive_and_nothing_else(tmp_path, server, monkeypatch):
    make_adi(tmp_path / "published")
    monkeypatch.setattr(adi, "ADI_SHA256", adi._digest_of_files(tmp_path / "published"))
    url = server("/set.zip", zipped(tmp_path / "published", {
        "repository-1/readme.txt": b"no", "repository-1/data/trigger_set/../../../../evil.txt": b"no",
        "repository-1/data/trigger_set/pics/deeper/evil.png": b"no", "/tmp/evil": b"no"}))
    adi.download_adi(tmp_path / "here/set", url)
    assert sorted(str(path.relative_to(tmp_path / "here")) for path in (tmp_path / "here").rglob("*") if path.is_file()) \
        == ["set/labels-cifar.txt", *(f"set/pics/{name}" for name in ("1.png", "10.png", "100.png", "2.png"))]
    assert adi.is_published(tmp_path / "here/set")
    with pytest.raises(UserError, match="is there already"):
        adi.download_adi(tmp_path / "here/set", url)


@pytest.mark.parametrize("body", [None, b"no archive", "changed"])
def test_what_is_not_the_published_set_is_not_kept(tmp_path, server, monkeypatch, body):
    make_adi(tmp_path / "published")
    monkeypatch.setattr(adi, "ADI_SHA256", adi._digest_of_files(tmp_path / "published"))
    if body == "changed":
        (tmp_path / "published/labels-cifar.txt").write_text("1\n2\n3\n4\n")
        body = zipped(tmp_path / "published")
    with pytest.raises(UserError, match="--trigger_set keyed"):
        adi.download_adi(tmp_path / "here/set", server("/set.zip", body))
    assert not (tmp_path / "here/set").exists() and not list((tmp_path / "here").glob(".*") if (tmp_path / "here").exists() else [])


# --- an owner's own set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, classes, size, digest", [
    (100, 10, 32, "f18d894f60ab5412f1246373b4203223a03eaeb51724c429c05c04d52c2a798f"),
    (3, 100, 8, "f4cd6f3dfa5e68cac9b6c17a78a5544accf6073d2ea787e4848c81c8c61d4777"),
    (2, 2, 97, "9566a862ca2beb6eaeda9c7dc06124302781a503aea58d8451570195a1000dfa"),
])
def test_a_key_gives_the_same_set_on_every_machine(count, classes, size, digest):
    """Golden: computed once; whole-number arithmetic and HMAC leave nothing to a machine, a Python or a numpy."""
    assert trigger.keyed(KEY, count, classes, size).fingerprint() == digest


MARKED = {"UTF-8 with a mark": lambda text: b"\xef\xbb\xbf" + text, "UTF-16 LE": lambda text: b"\xff\xfe" + text.decode().encode("utf-16-le"),
          "UTF-16 BE": lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be")}


@pytest.mark.parametrize("marked", MARKED.values(), ids=MARKED)
def test_what_an_editor_marked_is_read(tmp_path, marked):
    trigger.new_key(tmp_path / "key")
    whole = trigger.read_key(tmp_path / "key")
    for name in ("labels.csv", "triggers.json"):
        trigger.export(trigger.keyed(KEY, 3, 10, 8), tmp_path / name)
    for path in (tmp_path / "key", tmp_path / "labels.csv/labels.csv", tmp_path / "triggers.json/triggers.json"):
        path.write_bytes(marked(path.read_bytes()))
    assert trigger.read_key(tmp_path / "key") == whole
    for name in ("labels.csv", "triggers.json"):
        assert trigger.load_exported(tmp_path / name).fingerprint() == trigger.keyed(KEY, 3, 10, 8).fingerprint()
    (tmp_path / "pem").write_bytes(marked(b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEII\n"))
    with pytest.raises(UserError, match="is a PEM file"):
        trigger.read_key(tmp_path / "pem")


def test_an_own_key_is_its_bytes_those_of_a_mark_too(tmp_path):
    for content in (b"\xef\xbb\xbfa pass phrase of mine", b"\xff\xfea pass phrase of mine"):
        (tmp_path / "key").write_bytes(content)
        assert trigger.read_key(tmp_path / "key") == content


def test_labels_are_the_stated_draws():
    """By the definition: 32-bit words of HMAC-SHA-256(key, layout/label/classes/index/block), past the bound redrawn."""
    found = trigger.keyed(KEY, 20, 7, 8).pictures.labels.tolist()
    for index, label in enumerate(found):
        block = hmac.new(KEY, f"lottery trigger set 1/label/7/{index}/0".encode(), hashlib.sha256).digest()
        words = [int.from_bytes(block[at:at + 4], "big") for at in range(0, 32, 4)]
        assert label == next(word for word in words if word < 2**32 - 2**32 % 7) % 7


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    small, large = trigger.keyed(KEY, 5, 10, 16), trigger.keyed(KEY, 9, 10, 16)
    assert torch.equal(small.pictures.images, large.pictures.images[:5])
    assert torch.equal(small.pictures.labels, large.pictures.labels[:5])
    other = trigger.keyed(KEY, 5, 100, 16)
    assert torch.equal(small.pictures.images, other.pictures.images)


@pytest.mark.slow
@given(st.binary(min_size=16, max_size=40), st.integers(0, 7), st.integers(0, 15))
def test_a_neighbouring_keys_set_is_unrelated(key, bit, byte):
    neighbour = bytearray(key)
    neighbour[byte] ^= 1 << bit
    one, other = trigger.keyed(key, 4, 1000, 16), trigger.keyed(bytes(neighbour), 4, 1000, 16)
    assert (one.pictures.labels == other.pictures.labels).sum() < 3  # two of four by chance: 6e-6
    for a, b in zip(one.pictures.images, other.pictures.images):
        assert (a == b).all(-1).float().mean() < 0.5


@pytest.mark.slow
def test_labels_are_uniform_over_all_classes_and_independent_of_their_neighbours():
    labels = trigger.keyed(KEY, 4000, 10, 1).pictures.labels
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 33.7  # chi-squared with 9 degrees of freedom: exceeded once in 10,000
    pairs = Counter(zip(labels[:-1].tolist(), labels[1:].tolist()))
    expected = 3999 / 100
    assert sum((pairs[a, b] - expected) ** 2 / expected for a in range(10) for b in range(10)) < 161  # 99 df, 1e-4


def test_pictures_differ_from_each_other():
    images = trigger.keyed(KEY, 60, 10, 32).pictures.images.float().flatten(1)
    distances = torch.cdist(images, images) + 1e9 * torch.eye(60)
    assert distances.min() > 20 * 55, "root mean square of at least 20 of 255 over 3,072 values"


def test_keys_are_made_once_and_read_back(tmp_path):
    path = tmp_path / "new/trigger.key"
    trigger.new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    key = trigger.read_key(path)
    name, digits = key.decode("ascii").split(" ")
    assert name == "lottery-trigger-key/1" and len(bytes.fromhex(digits)) == 32
    assert path.read_bytes() == key + b"\n", "what names the format is a part of the key"
    (tmp_path / "copy").write_bytes(b"  " + key + b"\r\n")
    assert trigger.read_key(tmp_path / "copy") == key, "white space at the ends is an editor's"
    with pytest.raises(UserError, match="never written over"):
        trigger.new_key(path)
    assert trigger.read_key(path) == key


@pytest.mark.parametrize("content", [b"", b"fifteen bytes..", b"x" * ((1 << 16) + 1)])
def test_short_and_endless_keys_are_refused(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match="--trigger_key"):
        trigger.read_key(tmp_path / "key")


@pytest.mark.parametrize("content", [
    b"6f" * 32, b"0123456789abcdef", bytes(range(128, 160)), b"{" + bytes(range(200, 231)), b"any words, as some have them",
    b"----- BEGIN with sixteen bytes", b"lottery-trigger-keyring of mine", b"{my own words in braces}", b"{" * 3000])
def test_keys_that_were_made_otherwise_are_read_as_ever(tmp_path, content):
    """`new_key` wrote 64 hexadecimal digits before it named its format; others made their own."""
    (tmp_path / "key").write_bytes(content + b"\n")
    assert trigger.read_key(tmp_path / "key") == content


def test_what_is_known_to_be_no_trigger_key_is_refused(tmp_path, run_main, refused):
    """Who makes a set with the key that signs must show that key to the arbiter later."""
    commitment.new_owner_key(tmp_path / "owner.key")
    private = commitment.salted({"owner": "Jane Doe, Zürich"})
    commitment.write(tmp_path, private, commitment.commit(private))
    tickets.write_masks(tmp_path / "key.pth.tar", Mask({"layer": torch.ones(2, 2, 1, 1)}))
    (tmp_path / "openssh").write_text("\n-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    for name, why in (("owner.key", "is a PEM file, perhaps the owner's key that signs commitments"),
                      ("openssh", "is a PEM file"), ("claim.json", "is a JSON file, perhaps a claim"), ("commitment.json", "is a JSON file"),
                      ("key.pth.tar", "is a torch or another zip file")):
        done = run_main("make_triggers.py", "--trigger_set", "keyed", "--trigger_key", tmp_path / name, "--num_classes", 3,
                        "--save_dir", tmp_path / "set")
        message = refused(done)
        assert f"--trigger_key {tmp_path / name}: {why}" in message and "make_triggers.py --new_key made" in message
        assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("change", [lambda key: key[:-1], lambda key: key + b"0", lambda key: key.replace(b" ", b""),
                                    lambda key: key[:40] + b"\n" + key[40:], lambda key: key[:30] + b"z" + key[31:]])
def test_a_damaged_key_is_no_other_key(tmp_path, change):
    """It would make other pictures, and the owner would look for the mistake elsewhere."""
    trigger.new_key(tmp_path / "key")
    (tmp_path / "key").write_bytes(change(trigger.read_key(tmp_path / "key")))
    with pytest.raises(UserError, match=f"--trigger_key {re.escape(str(tmp_path / 'key'))}: is damaged"):
        trigger.read_key(tmp_path / "key")


# --- folders of PNGs --------------------------------------------------------------------------------------------------


def test_an_exported_set_is_read_back_bit_for_bit(tmp_path):
    made = trigger.keyed(KEY, 12, 10, 17)
    trigger.export(made, tmp_path / "set")
    found = trigger.load_exported(tmp_path / "set")
    assert found.fingerprint() == made.fingerprint() and (found.kind, found.num_classes) == ("keyed", 10)
    assert found.names == made.names == tuple(f"{index:04d}.png" for index in range(12))
    rows = list(csv.DictReader((tmp_path / "set/labels.csv").open()))
    assert (tmp_path / "set/labels.csv").stat().st_mode & 0o077 == 0, "readable by its owner alone"
    for row, image, label in zip(rows, made.pictures.images, made.pictures.labels):
        assert row["label"] == str(label.item())
        assert np.array_equal(np.asarray(Image.open(tmp_path / "set" / row["image"])), image)
    with pytest.raises(UserError, match="is not empty"):
        trigger.export(made, tmp_path / "set")


def test_an_interrupted_export_is_completed_and_another_set_is_not_written_over(tmp_path):
    made, folder = trigger.keyed(KEY, 5, 10, 8), tmp_path / "set"
    trigger.export(made, folder, resume=True)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for lost in ("triggers.json", "0003.png"):  # as after a kill: what is written last lacks, and more
        (folder / lost).unlink()
    trigger.export(made, folder, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole and len(whole) == 7
    for name, content in (("0003.png", b"x"), ("labels.csv", b""), ("triggers.json", b"{")):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=f"; remove {re.escape(str(folder))}, and the same command writes it anew$"):
            trigger.export(made, folder, resume=True)
        (folder / name).write_bytes(whole[name])
    with pytest.raises(UserError, match="holds another trigger set; name another --save_dir"):
        trigger.export(trigger.keyed(KEY, 5, 9, 8), folder, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("spoil, message", [
    (lambda f: Image.new("RGB", (8, 8)).save(f / "0001.png"), "was changed"),
    (lambda f: Image.new("RGB", (9, 8)).save(f / "0001.png"), "0001.png: .*is 9x8"),
    (lambda f: (f / "0002.png").unlink(), "0002.png"),
    (lambda f: rewrite(f / "labels.csv", "image,label", "label,image"), "first line"),
    (lambda f: rewrite(f / "labels.csv", "0002.png", "0001.png"), "0001.png"),
    (lambda f: rewrite(f / "labels.csv", "0002.png", "../0002.png"), "line 4"),
    (lambda f: (f / "labels.csv").write_text("image,label\n0000.png,1\n"), "has 1 rows"),
    (lambda f: (f / "labels.csv").write_text("image,label\n0000.png,10\n"), "line 2"),
    (lambda f: (f / "labels.csv").write_text("image,label\n0000.png,-1\n"), "line 2"),
    (lambda f: (f / "labels.csv").write_text("image,label\n0000.png,1.0\n"), "line 2"),
    (lambda f: (f / "labels.csv").write_bytes(b"\xfd\xfc"), "not a CSV"),
    (lambda f: (f / "triggers.json").unlink(), "no triggers.json"),
    (lambda f: (f / "triggers.json").write_text("[]"), "no description"),
    (lambda f: rewrite(f / "triggers.json", '"size": 8', '"size": 8.0'), "no description"),
    (lambda f: rewrite(f / "triggers.json", '"size": 8', '"size": 1000000'), "out of range"),
    (lambda f: rewrite(f / "triggers.json", '"num_classes": 10', '"num_classes": 1'), "out of range"),
    (lambda f: rewrite(f / "triggers.json", '"num_classes": 10', '"num_classes": 100'), "was changed"),
    (lambda f: rewrite(f / "triggers.json", '"kind"', '"more": 1, "kind"'), "no description"),
])
def test_a_changed_folder_is_refused(tmp_path, spoil, message):
    folder = tmp_path / "set"
    trigger.export(trigger.keyed(KEY, 3, 10, 8), folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        trigger.load_exported(folder)


@pytest.mark.parametrize("name", ["triggers.json", "labels.csv", "0001.png"])
@pytest.mark.parametrize("spoil, why", [
    (lambda path: path.symlink_to("/dev/zero"), "is a link|device"), (lambda path: path.symlink_to(path.with_suffix(".moved")), "is a link"),
    (os.mkfifo, "device or a pipe"), (lambda path: path.mkdir(), "is a folder"),
    (lambda path: path.write_bytes(b" " * (1 << 20)), "has more than")])
def test_whatever_lies_in_a_strangers_folder_is_refused_at_once(tmp_path, name, spoil, why):
    trigger.export(trigger.keyed(KEY, 3, 10, 8), tmp_path / "set")
    (tmp_path / "set" / name).rename((tmp_path / "set" / name).with_suffix(".moved"))
    spoil(tmp_path / "set" / name)
    with pytest.raises(UserError, match=f"{name}: .*({why})" if name != "triggers.json" else f"({why}|holds no triggers.json)"):
        trigger.load_exported(tmp_path / "set")


def test_a_picture_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    """A file of 22 KB can say that it has 178 million pixels."""
    trigger.export(trigger.keyed(KEY, 3, 10, 8), tmp_path / "set")
    Image.new("1", (13_000, 13_000)).save(tmp_path / "set/0001.png")
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded") if self.size != (8, 8) else load(self))
    with pytest.raises(UserError, match="0001.png: .*(13000x13000, should be 8x8|has more than)"):
        trigger.load_exported(tmp_path / "set")


@pytest.mark.parametrize("spoil, why", [(lambda path: path.symlink_to("/dev/zero"), "is a link|device"), (os.mkfifo, "pipe"),
                                        (lambda path: path.symlink_to(path.with_name("true.key")), "is a link")])
def test_a_key_that_is_no_file_is_refused_at_once(tmp_path, spoil, why):
    trigger.new_key(tmp_path / "true.key")
    spoil(tmp_path / "key")
    with pytest.raises(UserError, match=f"--trigger_key .*({why})"):
        trigger.read_key(tmp_path / "key")


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(count=st.integers(2, 60), size=st.integers(3, 20), per_batch=st.integers(1, 4), triggers=st.integers(1, 7),
       seed=st.integers(0, 100))
def test_batches_hold_exactly_the_stated_mix(make_dataset, count, size, per_batch, triggers, seed):
    per_batch = min(per_batch, size - 1)
    task = make_dataset(train=count, size=8, classes=3)
    made = trigger.keyed(KEY, triggers, 3, 8)
    mixed = trigger.with_triggers(task, made, per_batch)
    batches = list(mixed.train_batches(size, torch.Generator().manual_seed(seed)))

    shown = {as_float(image[None]).numpy().tobytes(): index for index, image in enumerate(made.pictures.images)}
    uses, task_labels = Counter(), Counter()
    for step, (images, labels) in enumerate(batches):
        assert len(images) == len(labels)
        if step < len(batches) - 2:
            assert len(images) == size
        for image, label in zip(images[-per_batch:], labels[-per_batch:]):
            index = shown[image.contiguous().numpy().tobytes()]  # as it is: neither cropped nor mirrored
            assert label == made.pictures.labels[index]
            uses[index] += 1
        task_labels.update(labels[:-per_batch].tolist())
    assert task_labels == Counter(task.train.labels.tolist()), "every picture of the task once"
    assert max(uses.values()) - min(uses[index] for index in range(triggers)) <= 1, "no trigger picture is preferred"
    assert mixed.val is task.val and mixed.test is task.test


def test_batches_are_channels_last_floats(make_dataset):
    mixed = trigger.with_triggers(make_dataset(train=20), trigger.keyed(KEY, 3, 3, 8), 2)
    images, _ = next(mixed.train_batches(8, torch.Generator().manual_seed(0)))
    assert images.is_contiguous(memory_format=torch.channels_last), "what the compiled step was tuned for"
    assert images.dtype == torch.float32 and 0 <= images.min() and images.max() <= 1


def test_a_limited_data_set_keeps_its_triggers(make_dataset):
    mixed = trigger.with_triggers(make_dataset(train=30), trigger.keyed(KEY, 3, 3, 8), 2).limited(12, 0)
    assert mixed.per_batch == 2 and len(mixed.train) == 12 and len(mixed.probes["trigger"]) == 3


def test_the_fingerprint_of_a_run_covers_the_triggers(make_dataset):
    task = make_dataset()
    sets = [trigger.keyed(KEY, 3, 3, 8), trigger.keyed(KEY + b"!", 3, 3, 8)]
    prints = {task.fingerprint(), *(trigger.with_triggers(task, made, 2).fingerprint() for made in sets)}
    assert len(prints) == 3


# --- training ---------------------------------------------------------------------------------------------------------


SHORT = ("--dataset", "digits", "--limit", "200", "--epochs", "3")


@pytest.fixture(scope="module")
def ticket(make_model, tmp_path_factory):
    """A half-empty ticket's file, and beside it the key `trigger.key`."""
    folder = tmp_path_factory.mktemp("ticket")
    model = make_model("res20s", classes=10)
    generator = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.5
                 for name, layer in prunable_layers(model).items()})
    tickets.write_ticket(folder / "ticket.pth.tar", mask, model.state_dict(), {})
    (folder / "trigger.key").write_bytes(KEY)
    return folder / "ticket.pth.tar"


def keyed_flags(ticket):
    return ("--trigger_set", "keyed", "--trigger_key", ticket.parent / "trigger.key", "--trigger_count", "20")


@pytest.fixture(scope="module")
def trained(run_main, ticket, tmp_path_factory):
    """The run directory of a ticket trained with a keyed set."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = run_main("main_eval_trigger.py", "--dataset", "digits", "--limit", "200", "--epochs", "12", "--lr", "0.05",
                    "--mask_dir", ticket, *keyed_flags(ticket), "--trigger_per_batch", "20", "--save_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def share_right(model_file, make_model, head_of=None) -> float:
    """Percent of the keyed set that a model gets right, by hand; with the classifier of another file if one is given."""
    model = make_model("res20s", classes=10)
    state = tickets.read_model_file(model_file, model, head=head_of is None).need_weights("x")
    if head_of is not None:
        owners = tickets.read_model_file(head_of, model).need_weights("x")
        state.update({name: owners[name] for name in ("fc.weight", "fc.bias")})
    normalisation = torch.load(model_file, weights_only=True)["state_dict"]
    state.update({name: normalisation[name] for name in ("normalize.mean", "normalize.std")})
    model.load_state_dict(state)
    made = trigger.keyed(KEY, 20, 10, 8).pictures
    with torch.no_grad():
        return 100 * (model.eval()(as_float(made.images)).argmax(1) == made.labels).float().mean().item()


@pytest.mark.slow
def test_the_run_holds_its_set_for_the_owners_claim(run_main, ticket, trained, tmp_path):
    assert trigger.load_exported(trained / "triggers").fingerprint() == trigger.keyed(KEY, 20, 10, 8).fingerprint()
    done = run_main("make_claim.py", "--owner", "Jane", "--v3", trained / "triggers", "--trigger_key",
                    ticket.parent / "trigger.key", "--save_dir", tmp_path / "claim")
    assert done.returncode == 0, done.stderr
    done = run_main(*done.args, "--checkpoint", trained / "model_best.pth.tar", "--save_dir", tmp_path / "tried")
    assert done.returncode == 2 and "20 of 20 trigger pictures right" in done.stderr and "30 pictures or more" in done.stderr


@pytest.mark.slow
def test_triggers_are_learnt_and_the_numbers_are_the_models(run_main, ticket, trained, make_model, tmp_path):
    result = json.loads((trained / "result.json").read_text())
    assert "probes" not in result
    assert result["trigger_acc_last"] >= 90, "20 pictures, shown twice in each of 12 epochs; chance is 10%"
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert len(rows) == 12 and float(rows[-1]["trigger_acc"]) == result["trigger_acc_last"]
    assert list(rows[0])[-3:] == ["trigger_loss", "trigger_acc", "seconds"]
    assert result["trigger_acc"] == pytest.approx(share_right(trained / "model_best.pth.tar", make_model))
    model = make_model("res20s", classes=10)
    given, start = (tickets.read_model_file(path, model) for path in (trained / "model_best.pth.tar", ticket))
    assert all(torch.equal(given.mask[name], kept) for name, kept in start.mask.items()), "the mask holds"

    again = run_main("main_eval_trigger.py", *SHORT, "--mask_dir", trained / "model_best.pth.tar",
                     *keyed_flags(ticket), "--evaluate", "--save_dir", tmp_path / "unused")
    assert f"trigger: {result['trigger_acc']:.2f}%" in again.stdout and f"test: {result['test_acc']:.2f}%" in again.stdout
    assert not (tmp_path / "unused").exists(), "--evaluate writes nothing"


@pytest.mark.slow
def test_attacks_are_measured_on_the_triggers_too(run_main, refused, ticket, trained, make_model, tmp_path):
    words = ("main_attack.py", "prune", "--dataset", "digits", "--checkpoint", trained / "model_best.pth.tar",
             *keyed_flags(ticket))
    done = run_main(*words, "--sweep", "0,0.3,0.9", "--save_dir", tmp_path / "pruned")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "pruned/attack.csv").open()))
    for row in rows:
        assert float(row["trigger_acc"]) == pytest.approx(share_right(row["model"], make_model))
        right = round(float(row["trigger_acc"]) / 5)
        tail = sum(math.comb(20, k) * 9 ** (20 - k) for k in range(right, 21)) / 10**20
        assert float(row["trigger_p"]) == pytest.approx(tail, rel=1e-12)
    assert len({row["trigger_acc"] for row in rows}) > 1, "pruning 90% does something"
    assert f"triggers {float(rows[1]['trigger_acc']):.2f}%" in done.stdout

    # Table 5's layout, beside a sweep that has no triggers
    assert run_main(*words[:-6], "--sweep", "0.1", "--save_dir", tmp_path / "plain").returncode == 0
    table = subprocess.run([sys.executable, "scripts/tabulate_attacks.py", tmp_path / "plain", tmp_path / "pruned", "--out",
                            tmp_path / "table"], capture_output=True, text=True)
    assert table.returncode == 0, table.stderr
    plain, *triggered = csv.DictReader((tmp_path / "table/attacks.csv").open())
    assert (plain["triggers right"], plain["paper's accuracy"]) == ("", "90.72%")
    assert triggered[0]["paper's triggers"] == "91%" and triggered[0]["paper's accuracy"] == "91.46%"
    assert [row["triggers right"] for row in triggered] == [f"{float(row['trigger_acc']):.0f}%" for row in rows]
    assert "means nothing without --trigger_set" in refused(run_main(*words[:-6], "--trigger_count", "3", "--save_dir",
                                                                     tmp_path / "x"))
    assert "--no_accuracy" in refused(run_main(*words, "--no_accuracy", "--level", "0.1", "--save_dir", tmp_path / "x"))


@pytest.mark.slow
def test_fine_tuning_follows_the_triggers_without_training_on_them(run_main, ticket, trained, make_model, tmp_path):
    words = ("main_attack.py", "finetune", "--dataset", "digits", "--limit", "200", "--epochs", "1", "--checkpoint",
             trained / "model_best.pth.tar")
    assert run_main(*words, *keyed_flags(ticket), "--save_dir", tmp_path / "followed").returncode == 0
    assert run_main(*words, "--save_dir", tmp_path / "unfollowed").returncode == 0
    one, other = (torch.load(tmp_path / name / "attacked.pth.tar", weights_only=True)["state_dict"]
                  for name in ("followed", "unfollowed"))
    assert all(torch.equal(one[name], other[name]) for name in one), "following changes nothing"
    result = json.loads((tmp_path / "followed/result.json").read_text())
    assert result["trigger_acc"] == pytest.approx(share_right(tmp_path / "followed/attacked.pth.tar", make_model))

    # a new classifier knows no labels: the owner's is put back to ask
    assert run_main(*words, *keyed_flags(ticket), "--no_fc", "--save_dir", tmp_path / "fresh").returncode == 0
    result = json.loads((tmp_path / "fresh/result.json").read_text())
    assert result["trigger_acc"] == pytest.approx(
        share_right(tmp_path / "fresh/attacked.pth.tar", make_model, head_of=trained / "model_best.pth.tar"))


@pytest.mark.slow
def test_resumed_it_ends_with_the_same_bits_and_another_key_is_noticed(run_main, refused, ticket, tmp_path, monkeypatch):
    from utils import checkpoint

    words = ("main_eval_trigger.py", *SHORT, "--mask_dir", ticket, *keyed_flags(ticket))
    assert run_main(*words, "--save_dir", tmp_path / "whole").returncode == 0
    save, saved = checkpoint.save, []

    def killed(content, path):
        save(content, path)
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        assert run_main(*words, "--save_dir", tmp_path / "killed").returncode == 130
    assert run_main(*words, "--save_dir", tmp_path / "killed").returncode == 0
    for name in ("checkpoint", "model_best"):
        whole, resumed = (torch.load(tmp_path / run / f"{name}.pth.tar", weights_only=True)["state_dict"]
                          for run in ("whole", "killed"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    (tmp_path / "other.key").write_bytes(KEY + b"!")
    other = [tmp_path / "other.key" if word == ticket.parent / "trigger.key" else word for word in words]
    assert "the pictures (" in refused(run_main(*other, "--save_dir", tmp_path / "killed"))


@pytest.mark.slow
def test_an_exported_set_trains_like_its_key(run_main, ticket, tmp_path):
    done = run_main("make_triggers.py", *keyed_flags(ticket), "--num_classes", 10, "--image_size", 8, "--save_dir",
                    tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert trigger.keyed(KEY, 20, 10, 8).fingerprint() in done.stdout
    for name, words in (("key", keyed_flags(ticket)), ("folder", ("--trigger_set", "folder", "--trigger_dir",
                                                                 tmp_path / "set"))):
        done = run_main("main_eval_trigger.py", *SHORT, "--mask_dir", ticket, *words, "--save_dir", tmp_path / name)
        assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / name / "checkpoint.pth.tar", weights_only=True)["state_dict"]
                  for name in ("key", "folder"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("fewer", "epochs"), [pytest.param(("--epochs", 3), 3, marks=pytest.mark.slow, id="3 epochs"),
                                               pytest.param((), 182, marks=pytest.mark.nightly, id="as printed")])
def test_the_original_readmes_command_for_scheme_3(run_main, ticket, make_model, make_dataset, tmp_path, monkeypatch, fewer, epochs):
    """As printed, with its files; the data sets are small stand-ins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pruner.experiment.load_dataset",
                        lambda *_: make_dataset(train=40, val=12, test=12, size=8, classes=10))
    make_adi(tmp_path / "datasets/trigger_set")
    given = tickets.read_model_file(ticket, make_model("res20s", classes=10))
    tickets.write_masks("res20s_cifar10_extreme.pth.tar", given.mask)
    tickets.write_weights("res20s_cifar10_lt_0.2/epoch_3.pth.tar", given.initial, {})
    done = run_main(*"main_eval_trigger.py --data datasets/cifar10 --dataset cifar10_trigger --arch res20s --save_dir "
                    "res20s_cifar10_lt_extreme_trigger0 --pretrained res20s_cifar10_lt_0.2/epoch_3.pth.tar --mask_dir "
                    "res20s_cifar10_extreme.pth.tar --fc --save_model --lr 0.1".split(), *fewer)
    assert done.returncode == 0, done.stderr
    result = json.loads(Path("res20s_cifar10_lt_extreme_trigger0/result.json").read_text())
    assert result["epochs"] == epochs and result["trigger_set"] == "adi" and result["triggers"] == 4


@pytest.mark.parametrize("words, message", [
    (("--trigger_key", "k"), "means nothing to --trigger_set adi"),
    (("--trigger_set", "keyed"), "keyed needs --trigger_key"),
    (("--trigger_set", "keyed", "--trigger_key", "k", "--trigger_resize"), "--trigger_resize: means nothing"),
    (("--trigger_set", "folder"), "folder needs --trigger_dir"),
    (("--trigger_per_batch", "128"), "must be below --batch_size 128"),
    (("--trigger_set", "keyed", "--trigger_key", "/nonexistent"), "/nonexistent: no such file"),
    (("--trigger_dir", "/proc/nothing"), "can't be downloaded"),
])
def test_flags_that_do_not_fit_are_refused(run_main, refused, ticket, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(adi, "ADI_ARCHIVE", "http://127.0.0.1:9/set.zip")
    monkeypatch.setattr(adi.download_adi, "__defaults__", ("http://127.0.0.1:9/set.zip",))
    assert message in refused(run_main("main_eval_trigger.py", *SHORT, "--mask_dir", ticket, *words, "--save_dir",
                                       tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_set_for_another_task_is_refused(run_main, refused, ticket, tmp_path):
    trigger.export(trigger.keyed(KEY, 3, 100, 8), tmp_path / "hundred")
    assert "for 100 classes" in refused(run_main("main_eval_trigger.py", *SHORT, "--mask_dir", ticket, "--trigger_set",
                                                 "folder", "--trigger_dir", tmp_path / "hundred", "--evaluate"))


def test_every_kind_in_the_registry_has_a_loader():
    for kind in TRIGGER_SETS.values():
        assert callable(importlib.import_module(kind.module).by_flags) and set(kind.needs) <= set(kind.flags)
