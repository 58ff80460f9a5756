"""Predictions from a remote service that speaks the Open Inference Protocol (KServe V2) over HTTP with JSON.

The service is a stranger's, perhaps an adversary's: it may be slow, send too much, or nonsense. Whatever it does ends
as complete labels or as a `UserError`, in bounded time and memory.
"""

import http.client
import json
import math
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ownership.trigger_set.evidence import surest
from utils.errors import UserError

METADATA_BYTES = 1 << 20
ANSWER_BYTES, BYTES_PER_NUMBER = 1 << 20, 64  # more than any number takes in JSON
TOKEN_BYTES = 1 << 16
WHOLE = frozenset(("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"))
REAL = frozenset(("FP16", "BF16", "FP32", "FP64"))
BUSY = 503
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

    timeout: seconds for each whole request. retries: further attempts where the connection fails or the service is busy
    (503). pause: seconds before the first of them, doubled for each further one. token: sent as a bearer token.
    """

    timeout: float = 30.0
    retries: int = 3
    pause: float = 1.0
    token: str | None = None

    def ask(self, address: Address, path: str, content: dict[str, Any] | None, limit: int) -> dict[str, Any]:
        """GET, or POST where there is content: the JSON object in the answer.

        Raises UserError, naming the address, unless the answer is 200 with an object in at most `limit` bytes.
        """
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        body = None if content is None else json.dumps(content, allow_nan=False).encode()
        request = urllib.request.Request(address.url + path, body, headers)
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                status, answer = within(self.timeout, lambda: _exchange(request, self.timeout, limit))
            except (OSError, http.client.HTTPException, ValueError) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                if isinstance(cause, TimeoutError):
                    raise UserError(f"{address}: no complete answer within {self.timeout:g} seconds; see "
                                    f"--timeout of {ASKING}") from None
                if isinstance(cause, ConnectionError) and attempt < self.retries:
                    continue
                reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
                raise UserError(f"{address}: can't be reached ({reason[:200]})") from None
            if status != BUSY:
                break
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


def _exchange(request: urllib.request.Request, timeout: float, limit: int) -> tuple[int, bytes]:
    """Status and at most `limit` + 1 bytes of the answer."""
    # the default opener would follow redirects, token and all, and open files
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    with opener.open(request, timeout=timeout) as response:
        return response.status, response.read(limit + 1)


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
                content = file.read(TOKEN_BYTES).decode("latin-1")
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    token = content.strip()
    if not re.fullmatch("[!-~]+", token):
        raise UserError(f"{where}: holds no token (printable ASCII without spaces)")
    return token


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
        return {"name": self.name, "shape": list(images.shape), "datatype": self.datatype,
                "data": values.ravel().tolist()}


def read_input(address: Address, metadata: dict[str, Any], side: tuple[int, int]) -> Input:
    """What to send pictures of height and width `side` as. Raises UserError where the metadata leaves that open."""
    inputs = metadata.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise UserError(f"{address}: the model's metadata must name one input; use a model that takes pictures alone, "
                        f"{OTHERWISE}")
    name, datatype, shape = (inputs[0].get(key) for key in ("name", "datatype", "shape"))
    if not isinstance(name, str) or not name or datatype not in ("FP32", "UINT8"):
        raise UserError(f"{address}: its input must have a name and datatype FP32 or UINT8, not "
                        f"{str(datatype)[:40]!r}; use such a model, {OTHERWISE}")
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(n) is int and (n == -1 or n > 0) for n in shape):
        raise UserError(f"{address}: its input has shape {str(shape)[:80]}, not [batch, 3, height, width] or [batch, "
                        f"height, width, 3]; use such a model, {OTHERWISE}")
    fits = [all(n in (-1, own) for n, own in zip(shape[1:], picture)) for picture in ((3, *side), (*side, 3))]
    if sum(fits) != 1:
        raise UserError(f"{address}: its input has shape {shape}, which " + (
            f"does not say where the channels are; fix that in its metadata, {OTHERWISE}" if all(fits) else
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

    The output holds labels ([sent] or [sent, 1], whole numbers) or scores ([sent, num_classes], any numbers).
    Raises UserError for anything else.
    """
    outputs = answer.get("outputs")
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise UserError(f"{address}: the answer must have one output; choose one with --output of {ASKING}")
    name, datatype, shape, data = (outputs[0].get(key) for key in ("name", "datatype", "shape", "data"))
    if output is not None and name != output:
        raise UserError(f"{address}: the answer's output is {str(name)[:80]!r}, not {output!r}")
    if not isinstance(datatype, str) or datatype not in WHOLE | REAL:
        raise UserError(f"{address}: the answer's datatype is {str(datatype)[:40]!r}; it must be one of numbers")
    if not isinstance(data, list):
        raise UserError(f"{address}: the answer's output has no data as JSON")
    are_labels = datatype in WHOLE and shape in ([sent], [sent, 1])
    if not are_labels and shape != [sent, num_classes]:
        raise UserError(f"{address}: the answer has {datatype} of shape {str(shape)[:80]}; for {sent} pictures it must "
                        f"be scores of shape [{sent}, {num_classes}] or whole-number labels of shape [{sent}]")
    while data and all(isinstance(row, list) for row in data):  # nested, as the protocol allows
        data = list(chain.from_iterable(data))
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
    return surest(scores[:len(names)], names, str(address))


def query_endpoint(address: Address, service: Service, images: np.ndarray, names: Sequence[str], num_classes: int,
                   batch: int = 32, output: str | None = None) -> np.ndarray:
    """Ask the service for the labels of all pictures.

    Args:
        images: uint8 [N, H, W, 3], N at least 1. names: of the pictures, for messages.
        batch: most pictures in a request. output: name of the model's output, where it has several.
    Returns:
        int64 [N].
    Raises:
        UserError: whatever the service does but answer every request as the protocol says.
    """
    metadata = service.ask(address, "", None, METADATA_BYTES)
    given = read_input(address, metadata, images.shape[1:3])
    wanted = choose_output(address, metadata, output)
    if given.batch is not None and given.batch > batch:
        raise UserError(f"{address}: takes {given.batch} pictures at once, no fewer; give --batch {given.batch} to {ASKING}")
    size = given.batch or batch
    limit = ANSWER_BYTES + BYTES_PER_NUMBER * size * num_classes
    labels = []
    for start in range(0, len(images), size):
        part = images[start:start + size]
        if given.batch is not None:  # the last one is filled up
            part = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        content = {"inputs": [given.tensor(part)]} | ({"outputs": [{"name": wanted}]} if wanted is not None else {})
        answer = service.ask(address, "/infer", content, limit)
        labels.append(read_labels(address, answer, wanted, names[start:start + size], len(part), num_classes))
    return np.concatenate(labels)
