"""The black-box check: exact p-values, lists of predictions, services that behave and that don't, and the script."""

import contextlib
import email.utils
import functools
import itertools
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom
from stand_ins import hangs, serving

from datasets.pictures import Pictures
from datasets.trigger import TriggerSet
from ownership.claims.p_values import scientific, written
from ownership.trigger_set.evidence import by_chance, evidence_of, fisher, predict, read_predictions, write_predictions
from ownership.trigger_set.endpoint import (UNANSWERED, Address, Kept, Service, model_address, query_endpoint, read_input,
                                            read_labels, seconds_of, token_from, unfinished, warn_of_open_token)
from utils.errors import UserError

CLASSES, SIDE, COUNT = 10, 8, 9
KEY = b"sixteen bytes and more"
NAMES = tuple(f"{index:04d}.png" for index in range(COUNT))

# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total, classes", [(1, 2), (5, 3), (4, 4), (7, 2)])
def test_chance_against_all_ways_to_label_the_pictures(total, classes):
    answers = [index % classes for index in range(total)]  # whatever a model answers
    right = [sum(map(int.__eq__, answers, labels)) for labels in itertools.product(range(classes), repeat=total)]
    for correct in range(total + 1):
        assert by_chance(correct, total, classes) == Fraction(sum(count >= correct for count in right), len(right))


@pytest.mark.parametrize("total", [1, 3, 5])
def test_the_innocent_model_against_all_ways_to_deal_the_right_answers_out(total):
    for correct, innocent in itertools.product(range(total + 1), repeat=2):
        ways = list(itertools.combinations(range(2 * total), correct + innocent))
        as_many = sum(sum(place < total for place in way) >= correct for way in ways)
        assert fisher(correct, innocent, total) == Fraction(as_many, len(ways))


@pytest.mark.parametrize("total, classes", [(100, 10), (100, 100), (36, 10), (1000, 10)])
def test_p_values_of_real_sizes(total, classes):
    for correct in {0, 1, total // 10, total // 3, total - 1, total}:
        p = by_chance(correct, total, classes)
        if p > 1e-250:
            assert float(p) == pytest.approx(binom.sf(correct - 1, total, 1 / classes), rel=1e-9)
        for innocent in (0, total // 6, total):
            expected = hypergeom.sf(correct - 1, 2 * total, correct + innocent, total)
            if expected > 1e-250:
                assert float(fisher(correct, innocent, total)) == pytest.approx(expected, rel=1e-7)
    assert by_chance(total, total, classes) == Fraction(1, classes ** total)
    assert by_chance(0, total, classes) == fisher(0, total, total) == 1


def test_p_values_far_below_what_a_float_holds():
    found = evidence_of(1000, 1000, 100)
    assert found.p_value == Fraction(1, 10 ** 2000) and scientific(found.p_value) == "1.0e-2000"
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert 0 < content["p_value"] <= 1e-300 and content["log10_p_value"] == pytest.approx(-2000, abs=1e-9)


@pytest.mark.parametrize("p, text, by_people", [
    (Fraction(1), "1.0e+00", "1"), (Fraction(1, 10), "1.0e-01", "0.1"), (Fraction(1, 3), "3.4e-01", "0.34"),
    (Fraction(1, 30), "3.4e-02", "0.034"), (Fraction(1, 300), "3.4e-03", "3.4 x 10^-3"), (Fraction(1e-9), "1.0e-09", "10^-9"),
    (Fraction(185, 10 ** 99), "1.9e-97", "1.9 x 10^-97"),
    (Fraction(999, 1000), "1.0e+00", "1"), (Fraction(991, 10 ** 503), "1.0e-500", "10^-500")])
def test_p_values_are_rounded_up(p, text, by_people):
    assert (scientific(p), written(p)) == (text, by_people)


@given(st.integers(1, 60), st.integers(2, 12), st.floats(1e-12, 0.5), st.none() | st.integers(0, 60))
def test_the_threshold_parts_shown_from_not_shown(total, classes, alpha, innocent):
    share = None if innocent is None else Fraction(min(innocent, total), total)
    for correct in range(total + 1):
        found = evidence_of(correct, total, classes, share, alpha)
        assert found.shown == (found.needed is not None and correct >= found.needed)
        assert found.innocent_correct == (None if innocent is None else min(innocent, total))
        assert found.p_value == max(by_chance(correct, total, classes),
                                    0 if innocent is None else fisher(correct, found.innocent_correct, total))


def test_an_innocent_share_between_two_numbers_of_pictures_counts_as_the_larger():
    assert evidence_of(9, 10, 10, 0.16).innocent_correct == 2
    assert [evidence_of(9, 10, 10, share).innocent_correct for share in (0, 0.1, 0.3, 0.7, 1)] == [0, 1, 3, 7, 10]


@pytest.mark.parametrize("arguments", [(11, 10, 10), (-1, 10, 10), (0, 0, 10), (1, 10, 1), (1, 10, 10, 1.1),
                                       (1, 10, 10, math.nan), (1, 10, 10, -0.1)])
def test_numbers_that_no_set_can_give(arguments):
    with pytest.raises(ValueError):
        evidence_of(*arguments)


@pytest.fixture(scope="module")
def by_key() -> np.ndarray:
    """How many of 100 labels each of 10,000 keys draws as a fixed model answers, which much prefers some classes."""
    rng = np.random.default_rng(20)
    answers = rng.choice(10, 100, p=[0.55, 0.2, 0.1, 0.05, 0.05, 0.05, 0, 0, 0, 0])
    return (rng.integers(0, 10, (10000, 100)) == answers).sum(1)


@pytest.mark.parametrize("alpha", [0.05, 1e-2, 1e-3])
def test_an_innocent_model_is_accused_no_more_often_than_alpha_allows(by_key, alpha):
    p_values = {int(count): float(by_chance(int(count), 100, 10)) for count in np.unique(by_key)}
    accused = np.mean([p_values[int(count)] <= alpha for count in by_key])
    attained = float(by_chance(evidence_of(0, 100, 10, alpha=alpha).needed, 100, 10))
    assert alpha / 4 < attained <= alpha
    assert abs(accused - attained) <= 3 * math.sqrt(attained * (1 - attained) / 10000)  # three standard deviations


@pytest.mark.parametrize("alpha", [0.05, 1e-2, 1e-3])
def test_two_innocent_models_differ_no_more_often_than_alpha_allows(alpha):
    """Also where some pictures are easy and others hard, alike for both."""
    rng, p_value = np.random.default_rng(21), functools.lru_cache(maxsize=None)(fisher)
    for chances in (np.full(100, 0.16), rng.beta(0.3, 1.5, 100)):
        pairs = (rng.random((10000, 2, 100)) < chances).sum(2)
        accused = np.mean([p_value(int(one), int(other), 100) <= alpha for one, other in pairs])
        assert accused <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 10000)


# --- predictions in a file --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file that may be written over and over."""
    return tmp_path_factory.mktemp("predictions") / "gathered.csv"


GOOD = "image,predicted_label\n" + "".join(f"{name},{index % CLASSES}\n" for index, name in enumerate(NAMES))
LABELS = np.arange(COUNT) % CLASSES


@settings(max_examples=60)
@given(st.permutations(range(COUNT)), st.lists(st.integers(0, CLASSES - 1), min_size=COUNT, max_size=COUNT),
       st.booleans(), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.sampled_from(["", " "]), st.booleans(),
       st.booleans())
def test_a_complete_list_is_read_in_whatever_form(scratch, order, labels, swapped, ending, bom, space, quoted, ended):
    rows = [("image", "predicted_label"), *((NAMES[index], str(labels[index])) for index in order)]
    rows = [[f'"{value}"' if quoted else space + value + space for value in (row[::-1] if swapped else row)]
            for row in rows]
    text = ending.join(map(",".join, rows)) + (ending * 2 if ended else "")
    scratch.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    assert read_predictions(scratch, NAMES, CLASSES).tolist() == labels


def test_what_is_written_is_read_again(scratch):
    write_predictions(scratch, NAMES, LABELS)
    assert scratch.read_text() == GOOD
    read = read_predictions(scratch, NAMES, CLASSES)
    assert read.dtype == np.int64 and (read == LABELS).all()


BAD_LISTS = {
    "missing": (GOOD.replace("0004.png,4\n", ""), "lacks 1 of 9 pictures, '0004.png'"),
    "duplicated": (GOOD + "0004.png,4\n", "line 11: '0004.png' is there twice"),
    "duplicated otherwise": (GOOD + "0004.png,5\n", "line 11: '0004.png' is there twice"),
    "extra": (GOOD + "0009.png,4\n", "line 11: '0009.png' is no picture"),
    "path": (GOOD.replace("0004", "pics/0004"), "line 6: 'pics/0004.png' is no picture"),
    "too large": (GOOD.replace("g,4", "g,10"), "line 6: predicted_label 10 is none of the 10 classes (0 to 9)"),
    "negative": (GOOD.replace("g,4", "g,-1"), "line 6: predicted_label -1 is none"),
    "minus zero": (GOOD.replace("g,0", "g,-0"), "line 2: predicted_label -0 is none"),
    "huge": (GOOD.replace("g,4", "g," + "9" * 5000), "line 6: predicted_label 999"),
    "fraction": (GOOD.replace("g,4", "g,4.0"), "line 6: predicted_label '4.0' is no whole number"),
    "empty label": (GOOD.replace("g,4", "g,"), "line 6: predicted_label '' is no whole number"),
    "word": (GOOD.replace("g,4", "g,cat"), "line 6: predicted_label 'cat'"),
    "nan": (GOOD.replace("g,4", "g,nan"), "line 6: predicted_label 'nan'"),
    "other digits": (GOOD.replace("g,4", "g,\u0664"), "line 6: predicted_label"),
    "superscript": (GOOD.replace("g,4", "g,\u00b2"), "line 6: predicted_label"),
    "too many values": (GOOD.replace("g,4", "g,4,0.9"), "line 6: has 3 values instead of 2"),
    "too few values": (GOOD.replace("g,4", "g"), "line 6: has 1 values instead of 2"),
    "empty": ("", "must begin with the line 'image,predicted_label'"),
    "blank": ("\n\n\n", "must begin with"),
    "header only": ("image,predicted_label\n", "lacks 9 of 9 pictures"),
    "no header": (GOOD.partition("\n")[2], "must begin with"),
    "another header": (GOOD.replace("predicted_label", "label"), "it begins with 'image,label'"),
    "unknown column": (GOOD.replace("label\n", "label,score\n").replace(".png", ".png,1"), "must begin with"),
    "column twice": (GOOD.replace("predicted_label", "image"), "must begin with"),
    "semicolons": (GOOD.replace(",", ";"), "separated by commas"),
    "NUL": (GOOD.replace("g,4", "g,4\0"), "NUL bytes"),
    "UTF-16 without its mark": (GOOD.encode("utf-16-le"), "NUL bytes"),
    "not UTF-8": (GOOD.encode().replace(b"0004", b"0\xe904"), "line 6: not UTF-8"),
    "open quote": (GOOD.replace("0004", '"0004'), "not CSV"),
    "long field": (GOOD.replace("0004", "4" * 200000), "not CSV"),
    "too long": (GOOD + "\n" * (2 << 20), "is larger than any list"),
}


@pytest.mark.parametrize("content, message", BAD_LISTS.values(), ids=BAD_LISTS)
def test_a_list_that_is_no_complete_one_is_refused(scratch, content, message):
    scratch.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as refusal:
        read_predictions(scratch, NAMES, CLASSES)
    said = str(refusal.value)
    assert message in said and said.startswith(str(scratch)) and len(said) < 500


@pytest.mark.parametrize("path", ["/dev/zero", "/nonexistent/file.csv", "/", "nul\0byte"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(UserError):
        read_predictions(path, NAMES, CLASSES)


PIECES = st.sampled_from(["image", "predicted_label", ",", "\n", "\r\n", "\r", '"', '""', " ", "-", "0", "9", "12", ".",
                          "\t", "\ufeff", "\u0664", "\x1c", "e", GOOD, *NAMES])


@settings(max_examples=200)
@given(st.binary(max_size=80) | st.lists(PIECES, max_size=40).map("".join).map(str.encode) |
       st.tuples(st.integers(0, len(GOOD)), st.integers(0, 6), st.lists(PIECES, max_size=3).map("".join)).map(
           lambda change: (GOOD[:change[0]] + change[2] + GOOD[change[0] + change[1]:]).encode()))
@example(GOOD.encode())
def test_anything_is_a_complete_list_or_refused(scratch, content):
    scratch.write_bytes(content)
    try:
        labels = read_predictions(scratch, NAMES, CLASSES)
    except UserError as refusal:
        assert str(refusal).startswith(str(scratch))
        return
    assert labels.shape == (COUNT,) and labels.min() >= 0 and labels.max() < CLASSES
    lines = re.split("[\r\n]+", re.sub('[" \t]', "", content.decode("utf-8-sig")))
    for name, label in zip(NAMES, labels):  # each is in the file, beside its name
        assert any(re.fullmatch(f"({name},0*{label}|0*{label},{name})", line) for line in lines)


# --- a service --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """The services here are this machine's."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    generator = torch.Generator().manual_seed(0)
    return Pictures(torch.randint(0, 256, (COUNT, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8),
                    torch.zeros(COUNT, dtype=torch.int64))


@pytest.fixture(scope="module")
def network():
    """A network with statistics of its own for normalisation, whose answers differ from picture to picture."""
    from models import build_model

    torch.manual_seed(3)
    model = build_model("res20s", CLASSES, (0.3, 0.5, 0.6), (0.2, 0.3, 0.25))
    images = torch.rand(200, 3, SIDE, SIDE)
    with torch.no_grad():
        for _ in range(20):
            model(images)  # in training mode, for the running statistics
        model.eval()
        model.fc.bias -= model(images).mean(0)  # no class is preferred
    return model


@pytest.fixture(scope="module")
def model_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pth.tar"
    torch.save({"state_dict": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def local(model_file, pictures) -> np.ndarray:
    """What the model says here."""
    labels = predict(model_file, "res20s", CLASSES, pictures)
    assert len(set(labels.tolist())) > 2
    return labels


class Speaker:
    """A service that speaks the protocol, with a real network behind it.

    layout, datatype, batch: of its input. as_labels, nested: how it answers. extra: names of further outputs.
    """

    def __init__(self, network, layout="NCHW", datatype="FP32", batch=-1, as_labels=False, nested=False, extra=()):
        self.network, self.layout, self.datatype, self.batch = network, layout, datatype, batch
        self.as_labels, self.nested, self.extra = as_labels, nested, extra
        self.path, self.requests, self.headers = "/v2/models/net", [], []

    def __call__(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if (method, path) == ("GET", self.path):
            side = [SIDE, SIDE]
            shape = [self.batch, 3, *side] if self.layout == "NCHW" else [self.batch, *side, 3]
            outputs = [{"name": name, "datatype": "FP32", "shape": [-1, CLASSES]} for name in ("scores", *self.extra)]
            return 200, json.dumps({"name": "net", "platform": "test", "outputs": outputs, "inputs": [
                {"name": "pictures", "datatype": self.datatype, "shape": shape}]}).encode()
        if (method, path) != ("POST", self.path + "/infer"):
            return 404, b'{"error": "no such model"}'
        request = json.loads(body)
        [given] = request["inputs"]
        self.requests.append(request)
        assert (given["name"], given["datatype"]) == ("pictures", self.datatype)
        images = torch.tensor(given["data"], dtype=torch.float64).reshape(given["shape"]).float()
        assert self.batch in (-1, len(images))
        if self.layout == "NHWC":
            images = images.permute(0, 3, 1, 2)
        if self.datatype == "UINT8":
            assert all(type(value) is int for value in given["data"])
            images = images / 255
        with torch.no_grad():
            scores = self.network(images.contiguous(memory_format=torch.channels_last))
        values = scores.argmax(1) if self.as_labels else scores
        data = values.tolist() if self.nested else values.flatten().tolist()
        found = {"datatype": "INT64" if self.as_labels else "FP32", "shape": list(values.shape), "data": data}
        outputs = [{"name": name, **found} for name in ("scores", *self.extra)]
        asked = [one["name"] for one in request.get("outputs", outputs)]
        outputs = [one for one in outputs if one["name"] in asked]
        return 200, json.dumps({"model_name": "net", "outputs": outputs}).encode()


QUICK = Service(timeout=20, retries=2, pause=0.01)


def ask(url: str, pictures: Pictures, service: Service = QUICK, **how) -> np.ndarray:
    address = model_address(f"{url}/v2/models/net")
    return query_endpoint(address, service, TriggerSet("keyed", pictures, NAMES, CLASSES), **how)


@pytest.mark.parametrize("how, batch, sent", [
    ({}, 32, [9]), ({}, 4, [4, 4, 1]), ({"layout": "NHWC"}, 5, [5, 4]), ({"datatype": "UINT8"}, 32, [9]),
    ({"layout": "NHWC", "datatype": "UINT8", "nested": True}, 32, [9]), ({"batch": 4}, 32, [4, 4, 4]),
    ({"batch": 1, "as_labels": True}, 1, [1] * 9), ({"as_labels": True}, 32, [9]), ({"nested": True}, 4, [4, 4, 1])])
def test_a_service_says_what_the_model_says(network, pictures, local, how, batch, sent):
    speaker = Speaker(network, **how)
    with serving(speaker) as url:
        labels = ask(url, pictures, batch=batch)
    assert labels.dtype == np.int64 and labels.tolist() == local.tolist()
    assert [request["inputs"][0]["shape"][0] for request in speaker.requests] == sent


def test_pictures_arrive_to_the_bit(network, pictures):
    speaker = Speaker(network)
    with serving(speaker) as url:
        ask(url, pictures)
    received = torch.tensor(speaker.requests[0]["inputs"][0]["data"], dtype=torch.float64).float()
    assert torch.equal(received.reshape(COUNT, 3, SIDE, SIDE), next(pictures.batches(COUNT))[0])


def test_one_of_several_outputs_must_be_chosen(network, pictures, local):
    with serving(Speaker(network, extra=("features",))) as url:
        assert ask(url, pictures, output="scores").tolist() == local.tolist()
        for output, message in ((None, "choose one with --output"), ("logits", "logits: the model has 'scores'")):
            with pytest.raises(UserError, match=message):
                ask(url, pictures, output=output)


def test_a_larger_fixed_batch_than_allowed_is_not_sent(network, pictures):
    with serving(Speaker(network, batch=64)) as url, pytest.raises(UserError, match="give --batch 64"):
        ask(url, pictures)


def test_the_token_is_sent_and_redirects_are_not_followed(network, pictures):
    speaker, elsewhere = Speaker(network), Speaker(network)
    service = Service(20, 0, 0.01, token="secret")
    with serving(speaker) as url:
        ask(url, pictures, service)
        assert [headers["Authorization"] for headers in speaker.headers] == ["Bearer secret"] * 2
        with serving(elsewhere) as other:
            for status in (301, 302, 303, 307, 308):
                with serving(lambda *_: (status, f"{other}/v2/models/net".encode())) as first:
                    with pytest.raises(UserError, match=f"answered {status} .a redirect"):
                        ask(first, pictures, service)
    assert not elsewhere.headers


def test_busy_services_and_broken_connections_are_tried_again(network, pictures, local):
    speaker, asked = Speaker(network), []

    def moody(method, path, body):
        asked.append(method)
        if len(asked) % 3:
            return (503, b"") if len(asked) % 3 == 1 else (None, lambda handler: handler.connection.close())
        return speaker(method, path, body)

    with serving(moody) as url:
        assert ask(url, pictures).tolist() == local.tolist()
    assert asked == ["GET"] * 3 + ["POST"] * 3


@pytest.mark.parametrize("status, times", [(503, 3), (502, 3), (429, 3), (504, 3), (500, 1), (404, 1), (204, 1)])
def test_only_busy_services_are_tried_again(pictures, status, times):
    asked = []

    def refuse(*words):
        asked.append(words)
        return status, b'{"error": "not\\ntoday"}' if status != 204 else b""

    with serving(refuse) as url, pytest.raises(UserError, match=f"answered {status}") as refusal:
        ask(url, pictures)
    assert len(asked) == times and (status == 204 or "not\ntoday" in str(refusal.value))


class Busy:
    """A speaker that answers requests of these numbers, counted from 1, with a status instead; sees when it is asked."""

    def __init__(self, speaker: Speaker, trouble: dict[int, tuple[int, str | None]]):
        self.speaker, self.trouble, self.times = speaker, trouble, []

    def __call__(self, method, path, body):
        self.times.append(time.monotonic())
        if len(self.times) not in self.trouble:
            return self.speaker(method, path, body)
        status, retry_after = self.trouble[len(self.times)]
        header = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
        return None, lambda handler: handler.wfile.write(f"HTTP/1.1 {status} Busy\r\n{header}Content-Length: 0\r\n\r\n".encode())


def in_a_second() -> str:
    return email.utils.format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), usegmt=True)


@pytest.mark.slow
@pytest.mark.parametrize("status, retry_after, at_least", [
    (429, None, 0), (502, None, 0), (503, None, 0), (504, None, 0), (429, "1", 1), (503, "date", 0.9), (429, "nonsense", 0),
    (429, "-5", 0), (429, "Wed, 21 Oct 2015 07:28:00 GMT", 0)])
def test_a_busy_service_is_asked_again_when_it_says(network, pictures, local, status, retry_after, at_least):
    busy = Busy(Speaker(network), {2: (status, in_a_second() if retry_after == "date" else retry_after), 4: (status, None)})
    with serving(busy) as url:
        assert ask(url, pictures, batch=4).tolist() == local.tolist()
    assert len(busy.times) == 6 and at_least <= busy.times[2] - busy.times[1] < at_least + 2


@pytest.mark.parametrize("text, seconds", [(None, 0), ("", 0), ("7", 7), (" 7 ", 7), ("1.5", 0), ("\u0664", 0), ("9" * 400, math.inf),
                                           ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("x, 99 Foo 2015", 0)])
def test_how_long_to_wait(text, seconds):
    assert seconds_of(text) == seconds


def test_no_attempt_is_made_after_the_last_second(network, pictures):
    for trouble in ({1: (429, "3600")}, {1: (503, "9" * 400)}):
        busy = Busy(Speaker(network), trouble)
        with serving(busy) as url, pytest.raises(UserError, match="answered 429|answered 503.*would be too late; see --timeout"):
            ask(url, pictures)
        assert len(busy.times) == 1


def test_pauses_grow_and_are_not_alike(monkeypatch, pictures):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with serving(lambda *words: (503, b"")) as url:
        for _ in range(5):
            with pytest.raises(UserError):
                ask(url, pictures, Service(600, 3, 1.0))
    slept = np.array([wait for wait in slept if wait != 0.01]).reshape(5, 3)  # 0.01 is the server's own
    assert ((slept >= [0.5, 1, 2]) & (slept <= [1, 2, 4])).all() and len(set(slept[:, 0])) == 5


@pytest.mark.parametrize("trouble", [(503, None), (500, None), (429, "3600")])
def test_what_a_service_leaves_unanswered_is_wrong_and_asked_for_later(network, pictures, local, tmp_path, capsys, trouble):
    path, asked = tmp_path / "list.csv", {"endpoint": "one"}
    first = Busy(Speaker(network), {number: trouble for number in range(4, 20)})
    with serving(first) as url:
        labels = ask(url, pictures, batch=2, kept=Kept(path, asked))
        assert labels.tolist() == [*local[:4], *[UNANSWERED] * 5]
        err = capsys.readouterr().err
        assert f"answered {trouble[0]}" in err and "5 of 9 pictures are unanswered and count as wrong; the same command" in err
    with serving(Speaker(network)) as url:
        with pytest.raises(UserError, match="holds answers of another model"):
            ask(url, pictures, kept=Kept(path, {"endpoint": "other"}))
    second = Speaker(network)
    with serving(second) as url:
        assert ask(url, pictures, batch=4, kept=Kept(path, asked)).tolist() == local.tolist()
        assert [request["inputs"][0]["shape"][0] for request in second.requests] == [4, 1]
    with serving(lambda *words: (500, b"")) as url:  # nothing is left to ask
        assert ask(url, pictures, kept=Kept(path, asked)).tolist() == local.tolist()
    for damaged in ("{", "[]", '{"asked": {"endpoint": "one"}, "answers": {"0000.png": 10}}', '{"asked": {"endpoint": "one"}}'):
        unfinished(path).write_text(damaged)
        with pytest.raises(UserError, match="unfinished.json"):
            Kept(path, asked).labels(NAMES, CLASSES)


@pytest.mark.slow
def test_the_script_goes_on_where_the_service_stopped(run_main, exported, network, tmp_path):
    folder, _ = exported
    speaker = Speaker(network)
    trouble = {number: (503, None) for number in range(3, 5)}
    busy, gathered = Busy(speaker, trouble), tmp_path / "gathered.csv"
    with serving(busy) as url:
        words = ("check_triggers.py", "--trigger_dir", folder / "known", "--endpoint", f"{url}/v2/models/net", "--batch", 10,
                 "--retries", 1, "--save_predictions", gathered)
        done = run_main(*words)
        assert done.returncode == 1 and "10 of 40 (25.00%) are right" in done.stdout and "count as wrong" in done.stderr
        assert len(gathered.read_text().splitlines()) == 11 and unfinished(gathered).exists()
        done = run_main(*words)
        assert done.returncode == 0 and "40 of 40" in done.stdout and done.stderr == ""
    assert [request["inputs"][0]["shape"][0] for request in speaker.requests] == [10] * 4
    assert len(gathered.read_text().splitlines()) == 41 and not unfinished(gathered).exists()


def test_a_token_in_the_clear_is_said(capsys):
    for url, said in (("http://host/v2/models/m", True), ("https://host/v2/models/m", False), ("http://127.0.0.3:80/v2/models/m", False),
                      ("http://[::1]/v2/models/m", False), ("http://localhost:8080/v2/models/m", False), ("http://10.0.0.1/v2/models/m", True)):
        for token in (None, "secret"):
            warn_of_open_token(model_address(url), token)
            err = capsys.readouterr().err
            assert ("without encryption" in err) == (said and token is not None) and "secret" not in err


STATED = {"name": "pictures", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}


@pytest.mark.parametrize("described", [b'{"name": "net", "inputs": [], "outputs": []}', b'{"name": "net"}'])
def test_an_input_that_the_metadata_lack_can_be_stated(network, pictures, local, described):
    speaker = Speaker(network)
    silent = lambda method, *rest: (200, described) if method == "GET" else speaker(method, *rest)
    with serving(silent) as url:
        with pytest.raises(UserError, match="--input_name, --input_datatype and --input_shape of check_triggers.py"):
            ask(url, pictures)
        for left_out in STATED:
            with pytest.raises(UserError, match="must name one input"):
                ask(url, pictures, stated={key: value for key, value in STATED.items() if key != left_out})
        assert ask(url, pictures, stated=STATED).tolist() == local.tolist()
    with serving(lambda method, *rest: (404, b"") if method == "GET" else speaker(method, *rest)) as url:
        assert ask(url, pictures, stated=STATED).tolist() == local.tolist()


def test_what_is_stated_counts_where_the_metadata_say_something_else():
    wrong = metadata(("-1", "3", "8", "8"), "INT8", "other")
    found = read_input(ADDRESS, wrong, (8, 8), {"datatype": "UINT8", "shape": [5, 8, 8, 3]})
    assert (found.name, found.datatype, found.channels_first, found.batch) == ("other", "UINT8", False, 5)


def test_the_flags_state_the_input(run_main, refused, exported, network):
    folder, _ = exported
    speaker = Speaker(network)
    silent = lambda method, *rest: (200, b'{"inputs": []}') if method == "GET" else speaker(method, *rest)
    with serving(silent) as url:
        words = "check_triggers.py", "--trigger_dir", folder / "known", "--endpoint", f"{url}/v2/models/net", "--input_name", "pictures"
        assert "--input_datatype" in refused(run_main(*words))
        done = run_main(*words, "--input_datatype", "FP32", "--input_shape=-1,3,8,8")
        assert done.returncode == 0 and "40 of 40" in done.stdout
    assert "--input_shape" in refused(run_main("check_triggers.py", "--trigger_dir", folder, "--predictions", "x", "--input_shape", "1,2"))


def test_half_precision_is_sent_as_such(network, pictures):
    speaker = Speaker(network, datatype="FP16")
    with serving(speaker) as url:
        ask(url, pictures)
    received = np.array(speaker.requests[0]["inputs"][0]["data"]).reshape(COUNT, 3, SIDE, SIDE)
    expected = (pictures.images.numpy().transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float16)
    assert np.array_equal(received, expected)


@pytest.mark.parametrize("data, shape, labels", [
    (["9.5:2", "1e-3:0"], [2, 1], [2, 0]), (["9.5:2:cat", "-1:0:a:b"], [2], [2, 0]),
    ([["0.9:1", "0.1:2"], ["0.8:2", "0.1:0"]], [2, 2], [1, 2]), ([["1:1", "1:2"], ["2:1", "1:0"]], [2, 2], [UNANSWERED, 1]),
    (["nan:1", "1:0"], [2, 1], [UNANSWERED, 0])])
def test_a_classification_is_an_answer(data, shape, labels):
    content = reply(data, shape, "BYTES")
    assert read_labels(ADDRESS, content, "y", NAMES[:2], 2, 3).tolist() == labels
    assert read_labels(ADDRESS, content, "y", NAMES[:1], 2, 3).tolist() == labels[:1]


@pytest.mark.parametrize("data, shape, message", [
    (["9:3", "1:0"], [2, 1], "label 3 is none of the 3 classes"), (["9:-1", "1:0"], [2, 1], "one of numbers"),
    (["x:1", "1:0"], [2, 1], "not all finite"), (["9:1"], [2, 1], "one of numbers"),
    ([9, 1], [2, 1], "one of numbers"),
    (["9:1", "1:0"], [1, 2], "one of numbers"), (["9:1", "1:0"], [2, 0], "one of numbers"), ("9:1", [2], "one of numbers"),
    (["9:1", "1:0"], [2, True], "one of numbers"), (["9:1" + "0" * 30, "1:0"], [2], "one of numbers")])
def test_a_classification_that_is_none(data, shape, message):
    with pytest.raises(UserError, match=message):
        read_labels(ADDRESS, reply(data, shape, "BYTES"), "y", NAMES[:2], 2, 3)


def test_a_service_that_speaks_something_else_is_asked_once(pictures):
    asked = []
    with serving(lambda *words: asked.append(words) or (None, lambda handler: handler.wfile.write(b"SSH-2.0\r\n"))) as url:
        with pytest.raises(UserError, match="can't be reached"):
            ask(url, pictures)
    assert len(asked) == 1


def test_a_service_that_is_not_there(pictures):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(UserError, match="can't be reached .Connection refused"):
            ask(f"http://127.0.0.1:{taken.getsockname()[1]}", pictures)
    with pytest.raises(UserError, match="can't be reached"):
        ask("http://a..b", pictures)


def drip(handler, start: bytes):
    """A byte now and then, so no single read ever times out."""
    handler.wfile.write(start)
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.02)


HANGING = {
    "silent": hangs()[1],
    "headers by drips": lambda handler: drip(handler, b"HTTP/1.1 200 OK\r\nX-Long: "),
    "body by drips": lambda handler: drip(handler, b"HTTP/1.1 200 OK\r\n\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", HANGING.values(), ids=HANGING)
@pytest.mark.parametrize("when", ["GET", "POST"])
def test_a_service_that_hangs_is_left(network, pictures, behaviour, when):
    speaker = Speaker(network)
    with serving(lambda method, *rest: (None, behaviour) if method == when else speaker(method, *rest)) as url:
        started = time.monotonic()
        with pytest.raises(UserError, match="no complete answer within 0.3 seconds; see --timeout"):
            ask(url, pictures, Service(0.3, 2, 0.01))
        assert time.monotonic() - started < 2


def test_an_endless_answer_takes_bounded_memory(pictures):
    sent = []

    def flood(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent.append(handler.wfile.write(b"[" * 65536))

    with serving(lambda *_: (None, flood)) as url, pytest.raises(UserError, match="more than the 1048576 bytes"):
        ask(url, pictures)
    assert sum(sent) < 32 << 20  # the limit, and what the system's buffers hold


NONSENSE = [b"", b"hello", b"<html></html>", b"[1, 2]", b"null", b"3", b'"text"', b"{", b"\xff\xfe{}", b"[" * 100000,
            b'{"a":' * 100000, b'{"a": ' + b"9" * 5000 + b"}", b"{}", b'{"inputs": 3, "outputs": 3}']


@pytest.mark.parametrize("when", ["GET", "POST"])
@pytest.mark.parametrize("content", NONSENSE, ids=lambda content: content[:20].decode("latin-1"))
def test_nonsense_is_no_answer(network, pictures, content, when):
    speaker = Speaker(network)
    with serving(lambda method, *rest: (200, content) if method == when else speaker(method, *rest)) as url:
        with pytest.raises(UserError, match="--endpoint http"):
            ask(url, pictures)


@pytest.mark.parametrize("content", [
    b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200,
    b"HTTP/1.1 200 " + b"x" * 70000], ids=range(7))
def test_what_is_not_even_http(pictures, content):
    with serving(lambda *_: (None, lambda handler: handler.wfile.write(content))) as url, pytest.raises(UserError):
        ask(url, pictures)


ADDRESS = Address("http://host/v2/models/net")


def metadata(shape=(-1, 3, SIDE, SIDE), datatype="FP32", name="x", **more):
    return {"inputs": [{"name": name, "datatype": datatype, "shape": list(shape), **more}]}


@pytest.mark.parametrize("shape, channels_first, batch", [
    ((-1, 3, 8, 8), True, None), ((-1, 8, 8, 3), False, None), ((-1, 3, -1, -1), True, None),
    ((-1, -1, -1, 3), False, None),
    ((7, 3, 8, 8), True, 7)])
def test_the_layout_is_the_one_that_fits(shape, channels_first, batch):
    found = read_input(ADDRESS, metadata(shape), (8, 8))
    assert (found.channels_first, found.batch) == (channels_first, batch)


@pytest.mark.parametrize("content, message", [
    ({}, "must name one input"), ({"inputs": []}, "must name one input"), ({"inputs": [1]}, "must name one input"),
    ({"inputs": metadata()["inputs"] * 2}, "must name one input"),
    (metadata(datatype="BYTES"), "datatype FP32 or UINT8"),
    (metadata(datatype=["FP32"]), "datatype FP32 or UINT8"), (metadata(datatype={}), "datatype FP32 or UINT8"),
    (metadata(name=None), "must have a name"), (metadata((-1, -1, -1, -1)), "does not say where the channels are"),
    (metadata((-1, 3, 32, 32)), "pictures of 8x8 pixels do not fit"), (metadata((-1, 1, 8, 8)), "do not fit"),
    (metadata((3, 8, 8)), "has shape"), (metadata((-1, 192)), "has shape"), (metadata((0, 3, 8, 8)), "has shape"),
    (metadata((-2, 3, 8, 8)), "has shape"), (metadata((True, 3, 8, 8)), "has shape"),
    (metadata(("-1", 3, 8, 8)), "has shape"),
    (metadata((-1.0, 3, 8, 8)), "has shape")])
def test_metadata_that_leave_the_input_open(content, message):
    with pytest.raises(UserError, match=message):
        read_input(ADDRESS, content, (8, 8))


def reply(data=None, shape=(2, 3), datatype="FP32", name="y", **more):
    return {"outputs": [{"name": name, "datatype": datatype, "shape": list(shape),
                         "data": [0.5, 1, -3, 2, 0, 1] if data is None else data, **more}]}


@pytest.mark.parametrize("content, labels", [
    (reply(), [1, 0]), (reply([[0.5, 1, -3], [2, 0, 1]]), [1, 0]), (reply([[[1, 2, 3]], [[3, 2, 1]]]), [2, 0]),
    (reply([-1e308, 1e308, 0, -3, -2, -1]), [1, 2]), (reply([2, 0], [2], "INT64"), [2, 0]),
    (reply([[2], [0]], [2, 1], "INT32"), [2, 0]), (reply([1, 2, 3, 6, 5, 4], datatype="INT8"), [2, 0]),
    *((reply([1, 2, bad, 3, 2, 1]), [UNANSWERED, 0]) for bad in (2, math.nan, math.inf, -math.inf)),
    (reply([1, 2, 3, 0, 0, 0]), [2, UNANSWERED])])
def test_answers(content, labels):
    assert read_labels(ADDRESS, content, "y", NAMES[:2], 2, 3).tolist() == labels
    assert read_labels(ADDRESS, content, None, NAMES[:1], 2, 3).tolist() == labels[:1]


BAD_ANSWERS = [
    ({}, "must have one output"), ({"outputs": []}, "must have one output"),
    ({"outputs": [None]}, "must have one output"),
    ({"outputs": reply()["outputs"] * 2}, "must have one output"), (reply(name="z"), "is 'z', not 'y'"),
    (reply(shape=(2, 4), data=[1] * 8), r"must be scores of shape \[2, 3\]"), (reply(shape=(3, 2)), "must be scores"),
    (reply(shape=(6,)), "must be scores"), (reply(shape=(2, 3, 1)), "must be scores"),
    (reply(shape=(1, 3)), "must be scores"),
    (reply(shape=(2,), data=[1, 2]), "must be scores"),  # labels must be of a whole-number type
    (reply([1.0] * 5), "not the 6 numbers"), (reply([1.0] * 7), "not the 6 numbers"), (reply([]), "not the 6 numbers"),
    (reply([[1, 2, 3], [3, 2]]), "not the 6 numbers"), (reply([[1, 2, 3], 3, 2, 1]), "not the 6 numbers"),
    (reply([1, 2, True, 3, 2, 1]), "not the 6 numbers"), (reply([1, 2, None, 3, 2, 1]), "not the 6 numbers"),
    (reply([1, 2, "3", 3, 2, 1]), "not the 6 numbers"),
    (reply([1, 2, 10 ** 400, 3, 2, 1]), "not all finite"), (reply(datatype="BYTES"), "one of numbers"),
    (reply(datatype=None), "one of numbers"), (reply(datatype=[1]), "one of numbers"),
    (reply(datatype="BOOL"), "one of numbers"),
    (reply(data={"a": 1}), "no data as JSON"), (reply([3, 0], [2], "INT64"), "label 3 is none of the 3 classes"),
    (reply([-1, 0], [2], "INT64"), "label -1 is none"), (reply([1.0, 0], [2], "INT64"), "label 1.0 is none"),
    (reply([10 ** 30, 0], [2], "INT64"), "label 1000"), (reply([True, 0], [2], "INT64"), "not the 2 numbers")]


@pytest.mark.parametrize("content, message", BAD_ANSWERS)
def test_answers_that_are_none(content, message):
    with pytest.raises(UserError, match=message):
        read_labels(ADDRESS, content, "y", NAMES[:2], 2, 3)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("data"), inner, max_size=1),
                    max_leaves=5)


@pytest.mark.slow
@settings(max_examples=100)
@given(JSON | st.builds(lambda **parts: {"outputs": [{"name": "y", **parts}]}, data=JSON | st.lists(st.integers(0, 3)),
                        datatype=st.sampled_from(["FP32", "INT64", "UINT8", "BYTES"]) | JSON,
                        shape=st.sampled_from([[2], [2, 3], [2, 1]]) | JSON),
       JSON | st.builds(lambda **parts: {"inputs": [parts]}, name=JSON, datatype=st.just("FP32") | JSON,
                        shape=JSON | st.lists(st.sampled_from([-1, 3, 8]), max_size=5)))
def test_any_json_is_an_answer_or_refused(answer, described):
    answer = answer if isinstance(answer, dict) else {"outputs": answer}
    described = described if isinstance(described, dict) else {"inputs": described}
    for read in (lambda: read_labels(ADDRESS, answer, "y", NAMES[:2], 2, 3),
                 lambda: read_input(ADDRESS, described, (8, 8))):
        with contextlib.suppress(UserError):
            found = read()
            if isinstance(found, np.ndarray):
                assert found.shape == (2,) and found.min() >= UNANSWERED and found.max() < 3  # equal scores are no answer


@pytest.mark.parametrize("url, name, expected", [
    ("http://host:8080/v2/models/net", None, "http://host:8080/v2/models/net"),
    ("https://host/v2/models/net/", None, "https://host/v2/models/net"),
    ("https://host/v2/models/net/infer", None, "https://host/v2/models/net"),
    ("http://host/a/b/v2/models/net/versions/3", None, "http://host/a/b/v2/models/net/versions/3"),
    ("http://[::1]:80", "net", "http://[::1]:80/v2/models/net"),
    ("http://host/", "a b/c", "http://host/v2/models/a%20b%2Fc"),
    ("http://host/v2", "net", "http://host/v2/models/net"),
    ("http://host/v2/models/", "net", "http://host/v2/models/net")])
def test_addresses(url, name, expected):
    assert model_address(url, name).url == expected


@pytest.mark.parametrize("url, name", [
    ("http://host", None), ("http://host/v2/models", None), ("http://host/v2/models/net/other", None), ("", None),
    ("host/v2/models/net", None), ("ftp://host/v2/models/net", None), ("file:///v2/models/net", None),
    ("http:///v2/models/net", None), ("http://host:port/v2/models/net", None),
    ("http://host:99999/v2/models/net", None),
    ("http://[::1/v2/models/net", None), ("http://host/v2/models/net?x=1", None), ("http://host/v2/models/net#x", None),
    ("http://host/v2/models/n et", None), ("http://host/v2/models/net\r\nX: y", None),
    ("http://hóst/v2/models/net", None),
    ("http://host/v2/models/net", "net"), ("http://user:pass@host/v2/models/net", None)])
def test_what_is_no_address(url, name):
    with pytest.raises(UserError, match="--endpoint") as refusal:
        model_address(url, name)
    assert "pass@" not in str(refusal.value)


@given(st.text() | st.text(alphabet="htps:/v2models.[]@?#%1 ").map("http://".__add__))
def test_any_text_is_an_address_or_refused(text):
    with contextlib.suppress(UserError):
        assert model_address(text).url.partition(":")[0] in ("http", "https")


def test_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", " abc.DEF-1 \n")
    assert token_from(None, None) is None and token_from("TOKEN", None) == "abc.DEF-1"
    path = tmp_path / "token"
    path.write_text("xyz\n")
    assert token_from(None, path) == "xyz"
    for content in (b"", b"two lines\nX-Header: y", b"tab\tbed", b"\xc3\xbc", b"x\0y"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="holds no token") as refusal:
            token_from(None, path)
        assert "lines" not in str(refusal.value)
    for variable, file in (("UNSET_VARIABLE", None), (None, tmp_path), (None, tmp_path / "none")):
        with pytest.raises(UserError, match="--token_"):
            token_from(variable, file)


@pytest.mark.parametrize("mark, encoding", [(b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le")])
def test_a_list_and_a_token_that_an_editor_marked_are_read(tmp_path, mark, encoding):
    (tmp_path / "list.csv").write_bytes(mark + GOOD.encode(encoding))
    assert read_predictions(tmp_path / "list.csv", NAMES, CLASSES).tolist() == LABELS.tolist()
    (tmp_path / "token").write_bytes(mark + "secret\r\n".encode(encoding))
    assert token_from(None, tmp_path / "token") == "secret"


RUNTIME = """import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Net(MLModel):
    async def load(self):
        self.ready = True
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float64)
        scores = images.reshape(len(images), 3, -1).sum(1)[:, :10]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
"""


@pytest.mark.nightly
@pytest.mark.parametrize("described", [False, True])
def test_a_real_mlserver_is_understood(pictures, tmp_path, described):
    """MLServer from PyPI, in an environment of its own, with and without metadata."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    if subprocess.run([tmp_path / "venv/bin/pip", "install", "-q", "mlserver"], capture_output=True).returncode:
        pytest.skip("mlserver can't be installed here; it needs PyPI")
    with contextlib.ExitStack() as taken:
        sockets = [taken.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    model = {"name": "net", "implementation": "runtime.Net"}
    if described:
        model["inputs"] = [{"name": "pictures", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE]}]
    (tmp_path / "runtime.py").write_text(RUNTIME)
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    (tmp_path / "settings.json").write_text(json.dumps({
        "host": "127.0.0.1", "parallel_workers": 0, **dict(zip(("http_port", "grpc_port", "metrics_port"), ports))}))
    server = subprocess.Popen([tmp_path / "venv/bin/mlserver", "start", tmp_path], cwd=tmp_path, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/v2/models/net/ready", timeout=5):
                break
            assert server.poll() is None
            time.sleep(0.2)
        if not described:
            with pytest.raises(UserError, match="--input_name, --input_datatype and --input_shape"):
                ask(url, pictures)
        labels = ask(url, pictures, batch=4, stated=None if described else STATED)
    finally:
        server.terminate()
        server.wait(30)
    images = (pictures.images.numpy().astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2).astype(np.float64)
    assert labels.tolist() == images.reshape(COUNT, 3, -1).sum(1)[:, :10].argmax(1).tolist()


# --- a model file -----------------------------------------------------------------------------------------------------


def test_a_model_file_is_asked_as_the_engine_asks(network, model_file, pictures, local):
    from utils.engine import Engine

    agreeing = Pictures(pictures.images, torch.from_numpy(local))
    assert Engine(network, torch.device("cpu")).evaluate(agreeing)[1] == 100


def changed(network, path, **entries):
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()} | entries
    torch.save({"state_dict": {name: tensor for name, tensor in state.items() if tensor is not None}}, path)
    return path


def test_normalisation_is_the_files_or_given_but_never_guessed(network, pictures, local, model_file, tmp_path, capsys):
    bare = changed(network, tmp_path / "bare.pth.tar", **{"normalize.mean": None, "normalize.std": None})
    with pytest.raises(UserError, match="give --mean and --std"):
        predict(bare, "res20s", CLASSES, pictures)
    with pytest.raises(UserError, match="give --mean and --std"):
        predict(bare, "res20s", CLASSES, pictures, mean=(0.3, 0.5, 0.6))
    mean, std = (0.3, 0.5, 0.6), (0.2, 0.3, 0.25)
    assert (predict(bare, "res20s", CLASSES, pictures, mean, std) == local).all()
    assert capsys.readouterr().err == "", "no data set's are taken"
    assert (predict(model_file, "res20s", CLASSES, pictures, mean, std) == local).all()
    shifted = changed(network, tmp_path / "shifted.pth.tar", **{"normalize.mean": torch.tensor([0.9, 0.9, 0.9])})
    assert (predict(shifted, "res20s", CLASSES, pictures) != local).any(), "a thief's own would hide the triggers"
    assert (predict(shifted, "res20s", CLASSES, pictures, mean) == local).all(), "what is given counts"


def test_pictures_too_small_for_the_network_are_refused(model_file, pictures):
    with pytest.raises(UserError, match="the triggers have 8x7"):
        predict(model_file, "res20s", CLASSES, Pictures(pictures.images[:, :7], pictures.labels))


def test_files_without_trained_weights_are_refused(network, pictures, tmp_path):
    torch.save({"init_weight": network.state_dict(), "state_dict": {}}, tmp_path / "ticket.pth.tar")
    torch.save({"layer1.0.conv1.weight_mask": torch.ones(16, 16, 3, 3)}, tmp_path / "mask.pth.tar")
    for name in ("ticket", "mask"):
        with pytest.raises(UserError):
            predict(tmp_path / f"{name}.pth.tar", "res20s", CLASSES, pictures)


def test_models_without_a_clear_answer_answer_wrongly(network, pictures, tmp_path):
    for entries in ({"fc.weight": torch.zeros(CLASSES, 64), "fc.bias": torch.zeros(CLASSES)}, {"normalize.std": torch.zeros(3)}):
        labels = predict(changed(network, tmp_path / "model.pth.tar", **entries), "res20s", CLASSES, pictures)
        assert (labels == UNANSWERED).all()


def test_a_large_bias_hides_no_answer(network, pictures, tmp_path):
    """In float32, scores that differ by less than 4 would all be 6e7."""
    bias = network.state_dict()["fc.bias"]
    labels = predict(changed(network, tmp_path / "model.pth.tar", **{"fc.bias": torch.full_like(bias, 6e7)}), "res20s", CLASSES, pictures)
    assert (labels != UNANSWERED).all()


# --- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """An exported set of 40 triggers, and the same pictures with the labels that the network gives them."""
    from dataclasses import replace

    from datasets import trigger

    folder = tmp_path_factory.mktemp("triggers")
    triggers = trigger.keyed(KEY, 40, CLASSES, SIDE)
    trigger.export(triggers, folder / "unknown")
    images, _ = next(triggers.pictures.batches(40))
    with torch.no_grad():
        labels = network(images).argmax(1)
    known = replace(triggers, pictures=Pictures(triggers.pictures.images, labels))
    trigger.export(known, folder / "known")
    trigger.export(replace(known, kind="adi"), folder / "public")
    return folder, known


def test_three_ways_to_ask_have_one_result(run_main, exported, network, model_file, tmp_path):
    folder, known = exported
    with serving(Speaker(network)) as url:
        gathered = tmp_path / "gathered.csv"
        ways = {"checkpoint": ["--checkpoint", model_file, "--arch", "res20s", "--save_predictions", gathered],
                "predictions": ["--predictions", gathered],
                "endpoint": ["--endpoint", url, "--model_name", "net", "--batch", 7]}
        for way, words in ways.items():
            done = run_main("check_triggers.py", "--trigger_dir", folder / "known", "--json", tmp_path / "result.json",
                            *words)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.splitlines() == [
                "triggers:  40 of 40 (100.00%) are right; keyed set", "chance:    4 of 40 (10.00%)",
                "threshold: 20 of 40 (50.00%), for p <= 10^-9", "p-value:   10^-40 that as many are right by chance",
                "note:      that labels were drawn at random is the owner's word; --trigger_key checks it",
                "verdict:   shown: the model knows the triggers"]
            result = json.loads((tmp_path / "result.json").read_text())
            assert result["shown"] is True and (result["correct"], result["pictures"], result["needed"]) == (40, 40, 20)
            assert result["log10_p_value"] == pytest.approx(-40) and result["triggers_sha256"] == known.fingerprint()
            assert way in result and not (ways.keys() - {way}) & result.keys()


def test_the_key_must_give_the_very_set(run_main, refused, exported, tmp_path):
    folder, known = exported
    key, other, gathered = tmp_path / "key", tmp_path / "other", tmp_path / "gathered.csv"
    key.write_bytes(KEY + b"\n")
    other.write_bytes(KEY + b"!")
    write_predictions(gathered, known.names, known.pictures.labels.numpy())
    words = "check_triggers.py", "--predictions", gathered, "--trigger_dir"
    done = run_main(*words, folder / "unknown", "--trigger_key", key, "--json", tmp_path / "result.json")
    assert done.returncode == 1 and "the owner's word" not in done.stdout
    assert json.loads((tmp_path / "result.json").read_text())["key_checked"] is True
    # more classes than there are make any accuracy seem improbable
    shutil.copytree(folder / "unknown", tmp_path / "inflated")
    facts = json.loads((tmp_path / "inflated" / "triggers.json").read_text())
    (tmp_path / "inflated" / "triggers.json").write_text(json.dumps(facts | {"num_classes": 1000}))
    for triggers, given in ((folder / "unknown", other), (folder / "known", key), (folder / "public", key),
                            (tmp_path / "inflated", key)):
        done = run_main(*words, triggers, "--trigger_key", given)
        assert "--trigger" in refused(done) and done.stdout == ""


def test_an_innocent_model_is_not_accused(run_main, exported, model_file, tmp_path):
    folder, _ = exported
    words = "--checkpoint", model_file, "--trigger_dir", folder / "unknown", "--json", tmp_path / "result.json"
    done = run_main("check_triggers.py", *words)
    assert done.returncode == 1 and "verdict:   not shown" in done.stdout and done.stderr == ""
    assert json.loads((tmp_path / "result.json").read_text())["shown"] is False
    assert run_main("check_triggers.py", *words, "--alpha", 0.999).returncode == 0


def test_a_public_set_is_compared_with_an_innocent_model(run_main, exported, model_file, tmp_path):
    folder, known = exported
    words = "check_triggers.py", "--checkpoint", model_file, "--trigger_dir", folder / "public"
    assert "everybody has this set" in run_main(*words).stdout and "--innocent" in run_main(*words).stdout
    done = run_main(*words, "--innocent", 0.1)
    assert done.returncode == 0 and "innocent:  4 of 40" in done.stdout and "compare with" not in done.stdout
    assert written(fisher(40, 4, 40)) in done.stdout
    labels = known.pictures.labels.numpy().copy()
    labels[:8] = (labels[:8] + 1) % CLASSES
    write_predictions(tmp_path / "innocent.csv", known.names, labels)
    done = run_main(*words, "--innocent", tmp_path / "innocent.csv")
    assert done.returncode == 1 and "innocent:  32 of 40" in done.stdout and "threshold: none" in done.stdout


def answers_500(*_):
    return 500, b'{"error": "out of memory"}'


def talks_nonsense(*_):
    return 200, b"nonsense"


@pytest.mark.parametrize("flag", ["--json", "--save_predictions"])
def test_nobody_is_asked_whose_answers_can_not_be_written(run_main, refused, exported, tmp_path, flag):
    done = run_main("check_triggers.py", "--trigger_dir", exported[0] / "known", "--endpoint", "http://localhost:1/v2/models/net",
                    flag, tmp_path)
    assert f"error: {flag} {tmp_path}: is a folder; name a file in it" in refused(done)


@pytest.mark.parametrize("service", [answers_500, hangs, talks_nonsense])
def test_a_service_that_misbehaves_proves_nothing(run_main, refused, exported, tmp_path, service):
    with serving(service) as url:
        done = run_main("check_triggers.py", "--trigger_dir", exported[0] / "known", "--timeout", 0.3,
                        "--endpoint", f"{url}/v2/models/net", "--json", tmp_path / "result.json",
                        "--save_predictions", tmp_path / "gathered.csv")
    assert "--endpoint http" in refused(done)
    assert done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [GOOD, GOOD + "x\n", ""])
def test_a_list_that_is_not_of_the_set_proves_nothing(run_main, refused, exported, tmp_path, content):
    (tmp_path / "gathered.csv").write_text(content)
    done = run_main("check_triggers.py", "--trigger_dir", exported[0] / "known", "--json", tmp_path / "result.json",
                    "--predictions", tmp_path / "gathered.csv")
    assert "gathered.csv" in refused(done) and done.stdout == "" and not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("words, message", [
    ([], "one of --checkpoint, --predictions, --endpoint"),
    (["--predictions", "a", "--endpoint", "b"], "exclude each other"),
    (["--predictions", "a", "--mean", "1,2,3"], "--mean"), (["--checkpoint", "a", "--std", "1,2"], "--std"),
    (["--checkpoint", "a", "--model_name", "net"], "--model_name"),
    (["--endpoint", "http://localhost:1"], "name the model there, or with --model_name"),
    (["--predictions", "a", "--token_env", "A"], "--token_env"),
    (["--endpoint", "http://host/v2/models/a", "--token_env", "A", "--token_file", "b"], "--token_file"),
    (["--endpoint", "http://host/v2/models/a", "--token_env", "UNSET_VARIABLE"], "UNSET_VARIABLE"),
    (["--predictions", "a", "--innocent", "16"], "16% is 0.16"),
    (["--predictions", "a", "--innocent", "nan"], "--innocent"),
    (["--predictions", "a", "--innocent", "/nonexistent"], "/nonexistent"),
    (["--predictions", "/nonexistent"], "/nonexistent"),
    (["--checkpoint", "/nonexistent"], "/nonexistent")])
def test_flags_that_do_not_go_together(run_main, refused, exported, words, message):
    assert message in refused(run_main("check_triggers.py", "--trigger_dir", exported[0] / "known", *words))


def test_a_model_answers_in_double_precision(make_model, tmp_path):
    """Two scores that float32 can't tell apart: rounding, which differs from machine to machine, must not decide."""
    model = make_model()
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith(("conv1.weight", "conv2.weight", "fc.weight", "bn1.weight", "bn2.weight")):
            tensor.zero_()
    state["layer3.2.bn2.bias"].fill_(1.0)  # so every feature is at least 1
    state["fc.bias"].copy_(torch.tensor([1.0, 1.0, 0.0]))
    state["fc.weight"][1, 63] = 1e-9
    torch.save({**state, "normalize.mean": torch.full((3,), 0.5), "normalize.std": torch.full((3,), 0.2)}, tmp_path / "model.pth.tar")
    pictures = Pictures(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert predict(str(tmp_path / "model.pth.tar"), "res20s", 3, pictures).tolist() == [1, 1]
