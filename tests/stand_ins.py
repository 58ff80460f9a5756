"""What several test files use beside fixtures: made-up masks and networks, an owner's secrets, services, pages."""

import contextlib
import math
import threading
import time
from functools import cache
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import torch
import torch.nn.functional as F
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from torch import nn

from attacks.locate import Found
from datasets.pictures import as_float
from models import build_model
from pruner.key_mask.split import fingerprint
from pruner.masks import Mask, prunable_layers
from pruner.qr_code.derived_text import derived_text

OWNER = "Jane <script>alert(1)</script> & Söhne"
OWNER_KEY, THIEFS_KEY = (Ed25519PrivateKey.from_private_bytes(letter * 32) for letter in (b"J", b"R"))
TRIGGERS = 32
KEY, OTHER_KEY = "a secret that only Jane has", "a secret that only John has"


@cache
def layer_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(layer.weight.shape) for name, layer in prunable_layers(build_model(arch, 10)).items()}


def real_looking_mask(shapes: dict[str, tuple[int, ...]], density: float, seed: int, spread: float = 0.2,
                      dead: float = 0.03) -> Mask:
    """The largest weights of a made-up network, so many that their share is `density`, up to rounding.

    Weights are normal, times 1 / sqrt(inputs) per layer, so that density falls with depth as in trained networks pruned
    by magnitude, times a log-normal factor (sigma `spread`) per row and per column, whose tails become dead channels as
    density falls. The share `dead` of rows and columns is empty at any density. In a ResNet-20 trained on 20,000
    pictures of CIFAR-10 for 10 epochs and pruned to 26% and 5% at once, densities differed between channels as with a
    spread of 0.06 and 0.08, and no channel was dead but at 5%; the defaults are for longer training, and harder.
    """
    random = np.random.default_rng(seed)
    sizes = {}
    for name, (out, into, height, width) in shapes.items():
        rows = random.lognormal(0, spread, out) * (random.random(out) >= dead)
        columns = random.lognormal(0, spread, into) * (random.random(into) >= dead)
        scale = random.lognormal(0, 0.03) / math.sqrt(into * height * width)
        factors = np.outer(rows, columns)[:, :, None, None]
        sizes[name] = np.abs(random.normal(0, scale, (out, into, height, width))) * factors
    everything = np.concatenate([size.ravel() for size in sizes.values()])
    threshold = np.partition(everything, -round(density * len(everything)))[-round(density * len(everything))]
    return Mask({name: torch.from_numpy(size >= threshold) for name, size in sizes.items()})


def small_mask(seed: int, density: float, area: tuple[int, int] = (2, 2)) -> Mask:
    return real_looking_mask({"a": (31, 34, *area), "b": (26, 24, *area), "c": (31, 34, *area), "d": (20, 40, *area)},
                             density, seed)


def overlap(found: Found, layer: str, x: int, y: int, size: int) -> float:
    """Intersection over union of two blocks."""
    if found.layer != layer:
        return 0.0
    shared = [max(0, min(a + found.size, b + size) - max(a, b)) for a, b in ((found.start_x, x), (found.start_y, y))]
    return math.prod(shared) / (found.size**2 + size**2 - math.prod(shared))


class Tiny(nn.Module):
    """Stem, a block with an identity shortcut, one with a padded shortcut, one with a downsampling convolution."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, padding=1, bias=False)
        self.a1 = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.a2 = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.b1 = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
        self.b2 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.c1 = nn.Conv2d(4, 2, 1, bias=False)
        self.c2 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.down = nn.Conv2d(4, 3, 1, bias=False)
        self.fc = nn.Linear(3, 2, bias=False)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.a2(F.relu(self.a1(x))) + x)
        x = F.relu(self.b2(F.relu(self.b1(x))) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))
        x = F.relu(self.c2(F.relu(self.c1(x))) + self.down(x))
        return self.fc(x.mean((2, 3)))


class Grouped(nn.Module):
    """A depthwise convolution, one of two groups, two branches side by side, a layer behind a flattened picture."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.point = nn.Conv2d(4, 6, 1, bias=False)
        self.halves = nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=False)
        self.beside = nn.Conv2d(6, 2, 1, bias=False)
        self.fc = nn.Linear(6 * 4, 2, bias=False)

    def forward(self, x):
        x = F.relu(self.point(F.relu(self.depth(F.relu(self.conv1(x))))))
        x = F.relu(torch.cat([self.halves(x), self.beside(x)], 1))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 2), 1))


@contextlib.contextmanager
def serving(answer):
    """Serve answer(method, path, body) -> (status, body), or (None, function of the handler); yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hasattr(answer, "headers"):
                answer.headers.append(dict(self.headers))
            status, content = answer(self.command, self.path, body)
            if status is None:
                with contextlib.suppress(OSError):
                    content(self)
                self.close_connection = True
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", content.decode())
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hangs(*_):
    """For serving(): no answer, longer than any test waits."""
    return None, lambda handler: time.sleep(3)


def random_mask(model, seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < 0.25
                 for name, layer in prunable_layers(model).items()})


def derived_for(owner_key: Ed25519PrivateKey, name: str, unsigned: Mask, nonce: int = 7) -> dict[str, str]:
    """Fields of a code's claim: a text, and what it follows from."""
    public = owner_key.public_key().public_bytes_raw()
    parts = {"owner_key": public.hex(), "owner_name": name, "nonce": f"{nonce:032x}", "ticket_sha256": fingerprint(unsigned)}
    return {"signature": derived_text(public, name, bytes.fromhex(parts["nonce"]), parts["ticket_sha256"], 24), **parts}


def as_pem(owner_key: Ed25519PrivateKey) -> bytes:
    return owner_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


UNSIGNED = random_mask(build_model("res20s", 10), 0)
DERIVED = derived_for(OWNER_KEY, OWNER, UNSIGNED)
SIGNATURE = DERIVED["signature"]


def trained(mask: Mask, seed: int, data, triggers=None) -> dict[str, torch.Tensor]:
    """A network under a mask whose classifier is fitted to digits and, before them, to triggers: least squares, no training."""
    torch.manual_seed(seed)
    model = build_model("res20s", 10, data.mean, data.std)
    layers = dict(model.named_modules())
    with torch.no_grad():
        for name, kept in mask.items():
            layers[name].weight.mul_(kept)
        images, labels = as_float(data.train.images), data.train.labels
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the running statistics are those of one pass
        model.train()(images[:256])
        seen = []
        model.eval().fc.register_forward_hook(lambda module, given, out: seen.append(given[0]))
        model(images)
        weight = torch.ones(len(images), 1)
        if triggers is not None:
            model(as_float(triggers.pictures.images))
            labels = torch.cat((labels, triggers.pictures.labels))
            weight = torch.cat((weight, torch.full((len(triggers), 1), 300.0)))
        features = torch.cat(seen)
        features = torch.cat((features, torch.ones(len(features), 1)), 1).double() * weight
        wanted = torch.nn.functional.one_hot(labels, 10).double() * weight
        fitted = torch.linalg.lstsq(features, wanted, driver="gelsd").solution.float()
        model.fc.weight.copy_(fitted[:-1].T)
        model.fc.bias.copy_(fitted[-1])
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Page(HTMLParser):
    """Tags with attributes, and text, as a browser would take them."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def assert_self_contained(page: Page) -> None:
    assert not page.open, "every tag is closed"
    assert {tag for tag, _ in page.tags} <= {"html", "head", "meta", "title", "style", "body", "h1", "h2", "span", "table", "tr",
                                             "th", "td", "thead", "tbody", "b", "ul", "li", "p", "div", "figure", "figcaption", "code", "svg", "path"}
    for _, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on")} and not {"src", "href", "action"} & attributes.keys()
    assert "url(" not in page.text and "@import" not in page.text
    policy = [attributes for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")


def signed(state: dict[str, torch.Tensor], draw, vectors, share: float = 1.0) -> dict[str, torch.Tensor]:
    """The least change of the weights that gives the first `share` of each layer's bits their sign."""
    state = dict(state)
    for layer in draw.texts:
        weight, m = state[f"{layer}.weight"].flatten(1), vectors[layer][:, 0]
        bits = torch.from_numpy(draw.bits(layer, len(weight))).float()
        bits = torch.where(torch.arange(len(bits)) < share * len(bits), bits, -bits)
        state[f"{layer}.weight"] = (weight + torch.outer(bits * 0.2 - weight @ m, m / m.square().sum())).view_as(state[f"{layer}.weight"])
    return state
