"""Predictions from a remote service that speaks the Open Inference Protocol (KServe V2) over HTTP with JSON.

The service is a stranger's, perhaps an adversary's: it may be slow, send too much, or nonsense. Whatever it does ends
as labels or as a `UserError`, in bounded time and memory. What it leaves unanswered, once it has answered at all, is UNANSWERED:
a wrong label.
"""

import email.utils
import http.client
import ipaddress
import json
import math
import os
import queue
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from datasets.trigger import TriggerSet
from ownership.trigger_set.evidence import UNANSWERED, surest
from utils import checkpoint
from utils.cli import one_line
from utils.errors import UserError

METADATA_BYTES = 1 << 20
ANSWER_BYTES, BYTES_PER_NUMBER = 1 << 20, 64  # more than any number takes in JSON
TOKEN_BYTES = 1 << 16
WHOLE = frozenset(("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"))
REAL = frozenset(("FP16", "BF16", "FP32", "FP64"))
BUSY = frozenset((429, 502, 503, 504))  # of the service, or of a gateway before it: worth another attempt
CLASSIFIED = re.compile(r"([^:]+):([0-9]{1,9})(?::.*)?", re.DOTALL)  # Triton's classification: score:class[:name]
STATED = ("name", "datatype", "shape")  # of an input
DATATYPES = ("FP32", "UINT8", "FP16")
ASKING = "check_triggers.py"  # has the flags that say how a service is asked; other scripts ask it in one way
OTHERWISE = "or gather the predictions yourself and give --predictions"


@dataclass(frozen=True)
class Address:
    """Of a model: `http://host[:port][/prefix]/v2/models/NAME[/versions/V]`."""

    url: str

    def __str__(self) -> str:
        return f"--endpoint {self.url}"


@dataclass(frozen=True)
class Service:
    """How a service is asked.

    timeout: seconds for all requests together, waiting included. retries: further attempts for each request where the connection
    fails or the service is BUSY. pause: seconds before the first of them, doubled for each further one, and a random part of it
    left out, so that many who wait do not come back at once; longer where the service says so (Retry-After). token: sent as a
    bearer token.
    """

    timeout: float = 600.0
    retries: int = 3
    pause: float = 1.0
    token: str | None = None

    def ask(self, address: Address, path: str, content: dict[str, Any] | None, limit: int, deadline: float) -> dict[str, Any]:
        """GET, or POST where there is content: the JSON object in the answer.

        Raises UserError, naming the address, unless the answer is 200 with an object in at most `limit` bytes, before the time
        `deadline` of `time.monotonic`.
        """
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None if content is None else json.dumps(content, allow_nan=False).encode()
        request = urllib.request.Request(address.url + path, body, headers)
        late = f"see --timeout of {ASKING}"
        for attempt in range(self.retries + 1):
            left, asked_to_wait = deadline - time.monotonic(), 0.0
            try:
                if left <= 0:
                    raise TimeoutError
                status, answer, asked_to_wait = within(left, lambda: _exchange(request, left, limit))
                if status not in BUSY or attempt == self.retries:
                    break
                trouble = f"answered {status}{_reason(status, answer)}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                if isinstance(cause, TimeoutError):
                    raise UserError(f"{address}: no complete answer within {self.timeout:g} seconds; {late}") from None
                trouble = f"can't be reached ({(getattr(cause, 'strerror', None) or str(cause) or type(cause).__name__)[:200]})"
                if not isinstance(cause, ConnectionError) or attempt == self.retries:
                    raise UserError(f"{address}: {trouble}") from None
            wait = max(asked_to_wait, self.pause * 2 ** attempt * random.SystemRandom().uniform(0.5, 1))
            if time.monotonic() + wait >= deadline:
                raise UserError(f"{address}: {trouble}, and the next attempt, in {wait:.3g} seconds, would be too late; {late}")
            time.sleep(wait)
        if status != http.client.OK:
            raise UserError(f"{address}: answered {status}{_reason(status, answer)}")
        if len(answer) > limit:
            raise UserError(f"{address}: sent more than the {limit} bytes that an answer can have")
        return _json_object(address, answer)


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What `work` gives, or TimeoutError. A socket's timeout starts anew with every byte, so a service that sends one
    now and then would hold us for ever; the thread that is left behind ends with the process at the latest."""
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return result


def _exchange(request: urllib.request.Request, timeout: float, limit: int) -> tuple[int, bytes, float]:
    """Status, at most `limit` + 1 bytes of the answer, and the seconds that its Retry-After asks for."""
    # the default opener would follow redirects, token and all, and open files
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    with opener.open(request, timeout=timeout) as response:
        return response.status, response.read(limit + 1), seconds_of(response.headers.get("Retry-After"))


def seconds_of(retry_after: str | None) -> float:
    """How long the header asks to wait: seconds, or until a date. 0 for none, for nonsense, and for what is past."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def _reason(status: int, answer: bytes) -> str:
    """What the service says of an error, as far as it says anything."""
    if 300 <= status < 400:
        return " (a redirect, which is not followed); give the final address"
    try:
        error = json.loads(answer)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        error = http.client.responses.get(status)
    return f" ({error[:200]})" if isinstance(error, str) else ""


def _json_object(address: Address, answer: bytes) -> dict[str, Any]:
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{address}: the answer is no JSON object; does it speak the Open Inference Protocol (KServe "
                        "V2)?")
    return content


def model_address(url: str, model_name: str | None = None, has_flag: bool = False) -> Address:
    """The model's address, from itself or from a server's and the model's name. has_flag: whether the script has --model_name.
    Raises UserError for anything else."""
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UserError("--endpoint: holds a user or password, which others see on a command line; give --token_env or "
                        f"--token_file to {ASKING}")
    try:
        parts = urllib.parse.urlsplit(url)
        usable = bool(parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0))
    except ValueError:
        usable = False
    # characters that urlsplit drops, or that would end a line of the request, are none of an address's
    if not usable or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise UserError(f"--endpoint {url}: must be like http://host:port/v2/models/NAME")
    path = parts.path.rstrip("/").removesuffix("/infer").rstrip("/")
    named = re.search(r"/v2/models/[^/]+(/versions/[^/]+)?$", path)
    if bool(named) == (model_name is not None):
        raise UserError(f"--endpoint {url}: " + ("names the model already; leave out --model_name" if named else
                                                 "does not end in /v2/models/NAME; name the model there"
                                                 + (", or with --model_name" if has_flag else "")))
    if model_name is not None:
        path = f"{path.removesuffix('/v2/models').removesuffix('/v2')}/v2/models/{_quoted(model_name)}"
    return Address(f"{parts.scheme}://{parts.netloc}{path}")


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="", errors="surrogateescape")


def token_from(variable: str | None, path: str | Path | None) -> str | None:
    """The token in an environment variable or else in a file, fit for a header; None for neither.

    Raises UserError, which never holds the token.
    """
    if variable is None and path is None:
        return None
    if variable is not None:
        where, content = f"--token_env {variable}", os.environ.get(variable, "")
    else:
        where = f"--token_file {path}"
        try:
            with open(path, "rb") as file:
                content = checkpoint.without_mark(file.read(TOKEN_BYTES)).decode("latin-1")
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    token = content.strip()
    if not re.fullmatch("[!-~]+", token):
        raise UserError(f"{where}: holds no token (printable ASCII without spaces)")
    return token


def warn_of_open_token(address: Address, token: str | None) -> None:
    """Say so where a token goes through a network that others may listen to."""
    parts = urllib.parse.urlsplit(address.url)
    try:
        at_home = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        at_home = parts.hostname == "localhost"
    if token is not None and parts.scheme == "http" and not at_home:
        print(f"note: {address}: sends the token without encryption, for everybody on the way to read; use https", file=sys.stderr)


# --- tensors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Input:
    """The one input that the service's metadata names: `batch` pictures at once exactly, or any number (None)."""

    name: str
    datatype: str
    channels_first: bool
    batch: int | None

    def tensor(self, images: np.ndarray) -> dict[str, Any]:
        """As JSON: uint8 [B, H, W, 3] in the service's layout; whole numbers 0 to 255, or real ones, 0 to 1."""
        if self.channels_first:
            images = images.transpose(0, 3, 1, 2)
        values = images if self.datatype == "UINT8" else images.astype(np.float32) / np.float32(255)
        values = values.astype(np.float16) if self.datatype == "FP16" else values
        return {"name": self.name, "shape": list(images.shape), "datatype": self.datatype,
                "data": values.ravel().tolist()}


def read_input(address: Address, metadata: dict[str, Any], side: tuple[int, int],
               stated: Mapping[str, Any] | None = None) -> Input:
    """What to send pictures of height and width `side` as.

    Args:
        stated: name, datatype or shape, which count where the metadata says nothing or something else.
    Raises:
        UserError: both leave that open.
    """
    stated = stated or {}
    inputs = metadata.get("inputs")
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict):
        name, datatype, shape = (stated.get(key, inputs[0].get(key)) for key in STATED)
    elif stated.keys() == set(STATED):
        name, datatype, shape = (stated[key] for key in STATED)
    else:
        raise UserError(f"{address}: the model's metadata must name one input; state it with --input_name, --input_datatype and "
                        f"--input_shape of {ASKING}, use a model that takes pictures alone, {OTHERWISE}")
    if not isinstance(name, str) or not name or datatype not in DATATYPES:
        raise UserError(f"{address}: its input must have a name and datatype FP32 or UINT8 (or FP16), not "
                        f"{str(datatype)[:40]!r}; state what it takes with --input_name and --input_datatype of {ASKING}, "
                        f"use such a model, {OTHERWISE}")
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(n) is int and (n == -1 or n > 0) for n in shape):
        raise UserError(f"{address}: its input has shape {str(shape)[:80]}, not [batch, 3, height, width] or [batch, "
                        f"height, width, 3]; state it with --input_shape of {ASKING}, use such a model, {OTHERWISE}")
    fits = [all(n in (-1, own) for n, own in zip(shape[1:], picture)) for picture in ((3, *side), (*side, 3))]
    if sum(fits) != 1:
        raise UserError(f"{address}: its input has shape {shape}, which " + (
            f"does not say where the channels are; say it with --input_shape of {ASKING}, {OTHERWISE}" if all(fits) else
            f"pictures of {side[1]}x{side[0]} pixels do not fit; export the triggers in that size"))
    return Input(name, datatype, fits[0], None if shape[0] == -1 else shape[0])


def choose_output(address: Address, metadata: dict[str, Any], output: str | None) -> str | None:
    """The output to ask for: the given one, or the only one; None where the metadata names none."""
    outputs = metadata.get("outputs") or []
    if not isinstance(outputs, list) \
            or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in outputs):
        raise UserError(f"{address}: the outputs in the model's metadata must be a list of objects with names")
    names = [one["name"] for one in outputs]
    if output is not None and names and output not in names:
        raise UserError(f"--output {output}: the model has {', '.join(map(repr, names))[:200]}")
    if output is None and len(names) > 1:
        raise UserError(f"{address}: has {len(names)} outputs ({', '.join(map(repr, names))[:200]}); choose one with "
                        f"--output of {ASKING}")
    return output if output is not None else names[0] if names else None


def read_labels(address: Address, answer: dict[str, Any], output: str | None, names: Sequence[str], sent: int,
                num_classes: int) -> np.ndarray:
    """int64 [len(names)] out of an answer about `sent` pictures, of which only the first len(names) are wanted.

    The output holds labels ([sent] or [sent, 1], whole numbers), scores ([sent, num_classes], any numbers), or the best classes
    as texts (see `classified`).
    Raises UserError for anything else.
    """
    outputs = answer.get("outputs")
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise UserError(f"{address}: the answer must have one output; choose one with --output of {ASKING}")
    name, datatype, shape, data = (outputs[0].get(key) for key in ("name", "datatype", "shape", "data"))
    if output is not None and name != output:
        raise UserError(f"{address}: the answer's output is {str(name)[:80]!r}, not {output!r}")
    if datatype == "BYTES":
        return classified(address, shape, data, names, sent, num_classes)
    if not isinstance(datatype, str) or datatype not in WHOLE | REAL:
        raise UserError(f"{address}: the answer's datatype is {str(datatype)[:40]!r}; it must be one of numbers")
    if not isinstance(data, list):
        raise UserError(f"{address}: the answer's output has no data as JSON")
    are_labels = datatype in WHOLE and shape in ([sent], [sent, 1])
    if not are_labels and shape != [sent, num_classes]:
        raise UserError(f"{address}: the answer has {datatype} of shape {str(shape)[:80]}; for {sent} pictures it must "
                        f"be scores of shape [{sent}, {num_classes}] or whole-number labels of shape [{sent}]")
    data = flat(data)
    if len(data) != math.prod(shape) or not all(type(value) in (int, float) for value in data):
        raise UserError(f"{address}: the answer's data are not the {math.prod(shape)} numbers of its shape {shape}")
    if are_labels:
        wrong = [value for value in data if type(value) is not int or not 0 <= value < num_classes]
        if wrong:
            raise UserError(f"{address}: label {str(wrong[0])[:40]} is none of the {num_classes} classes (0 to "
                            f"{num_classes - 1}) of the trigger set")
        return np.array(data[:len(names)], dtype=np.int64)
    try:
        scores = np.array(data, dtype=np.float64).reshape(sent, num_classes)
    except OverflowError:
        raise UserError(f"{address}: the answer's scores are not all finite numbers") from None
    return surest(scores[:len(names)])


def flat(data: list[Any]) -> list[Any]:
    """A tensor's values; they may be nested, as the protocol allows."""
    while data and all(isinstance(row, list) for row in data):
        data = list(chain.from_iterable(data))
    return data


def classified(address: Address, shape: Any, data: Any, names: Sequence[str], sent: int, num_classes: int) -> np.ndarray:
    """int64 [len(names)] out of Triton's classification: of each picture the best classes, `score:class[:name]`, best first.

    Raises UserError for anything else.
    """
    count = shape[1] if isinstance(shape, list) and len(shape) == 2 else 1
    values = flat(data) if isinstance(data, list) else []
    found = [CLASSIFIED.fullmatch(value) if isinstance(value, str) else None for value in values]
    if shape not in ([sent], [sent, count]) or type(count) is not int or count < 1 or len(found) != sent * count or None in found:
        raise UserError(f"{address}: the answer's datatype is 'BYTES'; it must be one of numbers, or a classification: texts "
                        f"'score:class', of {sent} pictures")
    labels = []
    for at in range(0, count * len(names), count):
        scores, classes = [match[1] for match in found[at:at + count]], [int(match[2]) for match in found[at:at + count]]
        if max(classes) >= num_classes:
            raise UserError(f"{address}: label {max(classes)} is none of the {num_classes} classes (0 to {num_classes - 1}) of the "
                            "trigger set")
        try:
            best = surest(np.array([scores], dtype=np.float64))[0]
        except ValueError:
            raise UserError(f"{address}: the answer's scores are not all finite numbers") from None
        labels.append(UNANSWERED if best == UNANSWERED else classes[best])
    return np.array(labels, dtype=np.int64)


def unfinished(path: str | Path) -> Path:
    """Where the answers are that came so far, as long as the list at `path` lacks some."""
    return Path(f"{path}.unfinished.json")


class Kept:
    """Answers that came so far, in a file beside the list that they will be, until all are there.

    Args:
        path: of the list. asked: whom and what: the same goes on, another is refused.
    """

    def __init__(self, path: str | Path, asked: Mapping[str, Any]):
        self.list, self.path, self.asked = Path(path), unfinished(path), dict(asked)

    def labels(self, names: Sequence[str], num_classes: int) -> np.ndarray:
        """int64 [names], UNANSWERED where none came. Raises UserError where the answers are to something else, or damaged."""
        if not self.path.exists():
            return np.full(len(names), UNANSWERED, dtype=np.int64)
        content = checkpoint.load_json(self.path)
        if not isinstance(content, dict) or content.get("asked") != self.asked:
            raise UserError(f"--save_predictions {self.list}: {self.path.name} beside it holds answers of another model or to other "
                            "pictures; name another, or remove that")
        answers = content.get("answers")
        if not isinstance(answers, dict) or not all(type(label) is int and 0 <= label < num_classes for label in answers.values()):
            raise UserError(f"{self.path}: is damaged; remove it, and all pictures are asked anew")
        return np.array([answers.get(name, UNANSWERED) for name in names], dtype=np.int64)

    def keep(self, names: Sequence[str], labels: np.ndarray) -> None:
        """Write what is answered so far."""
        answers = {name: label for name, label in zip(names, labels.tolist()) if label != UNANSWERED}
        checkpoint.save_json({"asked": self.asked, "answers": answers}, self.path)


def query_endpoint(address: Address, service: Service, triggers: TriggerSet, batch: int = 32, output: str | None = None,
                   stated: Mapping[str, Any] | None = None, kept: Kept | None = None) -> np.ndarray:
    """Ask the service for the labels of all pictures.

    Args:
        triggers: with at least one picture.
        batch: most pictures in a request. output: name of the model's output, where it has several.
        stated: of its input, see `read_input`; with all of it, the metadata are not asked for.
        kept: answers of an earlier call, which are not asked for again; new ones join them.
    Returns:
        int64 [N], UNANSWERED from where the service stopped answering as the protocol says; the reason is printed.
    Raises:
        UserError: it never did.
    """
    images, names, num_classes = triggers.pictures.images.numpy(), triggers.names, triggers.num_classes
    deadline = time.monotonic() + service.timeout
    warn_of_open_token(address, service.token)
    labels = kept.labels(names, num_classes) if kept else np.full(len(names), UNANSWERED, dtype=np.int64)
    if not (labels == UNANSWERED).any():
        return labels
    try:
        metadata = {} if stated and stated.keys() == set(STATED) else service.ask(address, "", None, METADATA_BYTES, deadline)
        given = read_input(address, metadata, images.shape[1:3], stated)
        wanted = choose_output(address, metadata, output)
        if given.batch is not None and given.batch > batch:
            raise UserError(f"{address}: takes {given.batch} pictures at once, no fewer; give --batch {given.batch} to {ASKING}")
        size = given.batch or batch
        limit = ANSWER_BYTES + BYTES_PER_NUMBER * size * num_classes
        missing = np.flatnonzero(labels == UNANSWERED)
        for which in np.split(missing, range(size, len(missing), size)):
            part = images[which]
            if given.batch is not None:  # the last one is filled up
                part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            content = {"inputs": [given.tensor(part)]} | ({"outputs": [{"name": wanted}]} if wanted is not None else {})
            answer = service.ask(address, "/infer", content, limit, deadline)
            labels[which] = read_labels(address, answer, wanted, [names[index] for index in which], len(part), num_classes)
            if kept:
                kept.keep(names, labels)
    except UserError as error:
        unanswered = int((labels == UNANSWERED).sum())
        if unanswered == len(labels):
            raise
        print(f"note: {one_line(str(error))}; {unanswered} of {len(labels)} pictures are unanswered and count as wrong"
              + ("; the same command asks for the rest" if kept else ""), file=sys.stderr)
    return labels
