"""Fixtures shared by all tests: scripts run as users run them, small data sets and networks, real pictures."""

import contextlib
import gc
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

# The networks here are small: one thread is the fastest, and a subprocess computes the same bits as this process.
os.environ["OMP_NUM_THREADS"] = "1"
# Runs are compared bit for bit, which CUDA does not promise; tests of CUDA itself ask for cuda_env.
CUDA_DEVICES = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# A shell that starts the suite in the background has Ctrl-C ignored, and what the tests start and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
LONGEST = ("test_readme.py", "test_verify.py", "test_imp.py", "test_rivals.py", "test_trigger.py", "test_verdicts_benchmark.py")

settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nightly tests run only where -m names them. The files that take longest start first: last, they would keep one core
    busy for minutes alone."""
    if "nightly" not in config.option.markexpr:
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def run_script():
    """run_script("main_imp.py", "--save_dir", path, ...) -> CompletedProcess with text output."""

    def run(name: str, *args, env: dict[str, str | None] | None = None,
            timeout: float = 300) -> subprocess.CompletedProcess:
        environment = {key: value for key, value in {**os.environ, **(env or {})}.items() if value is not None}
        return subprocess.run([sys.executable, name, *map(str, args)], cwd=ROOT, capture_output=True, text=True,
                              timeout=timeout, env=environment)

    return run


@pytest.fixture(scope="session")
def cuda_env(run_script) -> dict[str, str | None]:
    """run_script(..., env=cuda_env) sees the CUDA devices; its tests are skipped where there are none."""
    env = {"CUDA_VISIBLE_DEVICES": CUDA_DEVICES}
    asked = Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()
    if not asked or run_script("-c", "import torch; torch.zeros(1, device='cuda')", env=env).returncode:
        pytest.skip("no CUDA device")
    return env


@contextlib.contextmanager
def warnings_on_stderr():
    """Python's own treatment of warnings instead of pytest's: a user sees them, so they are output."""

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        warnings.showwarning = show
        yield


@pytest.fixture(scope="session")
def run_main():
    """Like run_script, but inside this process, which spares loading torch again."""
    loaded = 0

    def run(name: str, *args) -> subprocess.CompletedProcess:
        nonlocal loaded
        from utils import cli

        argv, out, err = [name, *map(str, args)], io.StringIO(), io.StringIO()
        before = sys.argv
        sys.argv = argv
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings_on_stderr():
                try:
                    cli.run(importlib.import_module(name.removesuffix(".py").replace("/", ".")).main)
                except SystemExit as end:
                    code = end.code
        finally:
            sys.argv = before
            gc.collect()  # closes what the end of a process would close, the lock of a run directory above all
            if len(sys.modules) > loaded:
                loaded = len(sys.modules)
                gc.freeze()  # libraries are not looked through again, which would take a quarter of a second each time
        return subprocess.CompletedProcess(argv, code or 0, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures; its tests are skipped where there is none."""
    if not Path(os.environ.get("TEST_DATA", "/nonexistent")).is_dir():
        pytest.skip("TEST_DATA does not name a folder; it should hold cifar10-part1of2.tar.gz and trigger_set/")
    return Path(os.environ["TEST_DATA"])


@pytest.fixture(scope="session")
def make_dataset():
    """make_dataset(train=64, val=32, test=32, size=8, classes=3) -> Dataset of noisy, learnable pictures."""

    def make(train: int = 64, val: int = 32, test: int = 32, size: int = 8, classes: int = 3, flip: bool = False,
             seed: int = 0):
        import torch

        from datasets.pictures import Dataset, Pictures, statistics

        rng = np.random.default_rng(seed)
        patterns = rng.integers(40, 216, (classes, size, size, 3))

        def split(count: int) -> Pictures:
            labels = rng.permutation(np.arange(count) % classes)
            images = np.clip(patterns[labels] + rng.normal(0, 30, (count, size, size, 3)), 0, 255)
            return Pictures(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))

        parts = split(train), split(val), split(test)
        mean, std = statistics(parts[0].images)
        return Dataset("synthetic", *parts, tuple(f"class{label}" for label in range(classes)), mean, std, flip)

    return make


@pytest.fixture(scope="session")
def make_model():
    """make_model(arch="res20s", classes=3, seed=0) -> a freshly initialised network of the registry."""

    def make(arch: str = "res20s", classes: int = 3, seed: int = 0):
        import torch

        from models import build_model

        torch.manual_seed(seed)
        return build_model(arch, classes)

    return make


@pytest.fixture(scope="session")
def digits():
    """The data set of scikit-learn's digits."""
    from datasets import load_dataset

    return load_dataset("digits")



@pytest.fixture(scope="session")
def owner(run_main, digits, tmp_path_factory):
    """A folder with everything that Jane has, and the files of other people's models."""
    import torch
    from stand_ins import (DERIVED, KEY, OTHER_KEY, OWNER, OWNER_KEY, SIGNATURE, TRIGGERS, UNSIGNED, as_pem, random_mask,
                           trained)

    from datasets import trigger
    from models import build_model
    from ownership.qr_code.claim import CodeClaim, write_claim
    from ownership.trigger_set.evidence import write_predictions
    from pruner import tickets
    from pruner.key_mask import split as key_masks
    from pruner.masks import Mask
    from pruner.qr_code.embedding import embed, find_region

    folder = tmp_path_factory.mktemp("owner")
    blank = build_model("res20s", 10)
    region = find_region(UNSIGNED, SIGNATURE)
    signed = embed(UNSIGNED, SIGNATURE, region, np.random.default_rng(0))
    tickets.write_masks(folder / "unsigned.pth.tar", UNSIGNED)
    write_claim(folder / "v2.json", CodeClaim(
        arch="res20s", layer=region.layer, start_x=region.start_x, start_y=region.start_y, version=3, error_correction="H",
        mask_pattern=region.code_format.mask_pattern, similarity=region.similarity, nonzeros=signed.nonzeros,
        entries=signed.entries, random_state={"state": 2**127 + 1}, **DERIVED))
    (folder / "trigger.key").write_text(KEY)
    (folder / "other.key").write_text(OTHER_KEY)
    triggers = trigger.keyed(KEY.encode(), TRIGGERS, 10, 8)
    trigger.export(triggers, folder / "triggers")
    write_predictions(folder / "right.csv", triggers.names, triggers.pictures.labels.numpy())
    write_predictions(folder / "wrong.csv", triggers.names, (triggers.pictures.labels.numpy() + 1) % 10)

    own = trained(signed, 1, digits, triggers)
    tickets.write_weights(folder / "own.pth.tar", own, {}, signed)
    tickets.write_weights(folder / "innocent.pth.tar", trained(random_mask(blank, 9), 2, digits), {}, random_mask(blank, 9))
    fully = embed(random_mask(blank, 5), "John Roe 1999", find_region(
        random_mask(blank, 5), "John Roe 1999", region.wish()), np.random.default_rng(5))
    others = trigger.keyed(OTHER_KEY.encode(), TRIGGERS, 10, 8)
    tickets.write_weights(folder / "other_owner.pth.tar", trained(fully, 3, digits, others), {}, fully)
    sizes = torch.cat([own[f"{name}.weight"][kept].abs() for name, kept in signed.items()])
    least = sizes.quantile(0.3)
    pruned = Mask({name: kept & (own[f"{name}.weight"].abs() >= least) for name, kept in signed.items()})
    tickets.write_weights(folder / "pruned.pth.tar", own, {}, pruned)

    scores = {name: torch.where(kept, own[f"{name}.weight"].abs().double(), -torch.inf) for name, kept in signed.items()}
    scored, _ = key_masks.split(signed, scores, 0.05, less=64)
    key, drawn = key_masks.draw(signed, key_masks.fingerprint(signed, own), scored, 64, OWNER_KEY.public_key().public_bytes_raw(),
                                bytes(16))
    locked = Mask({name: signed[name] & ~key[name] for name in key})
    key_masks.write_split(folder / "key.pth.tar", folder / "locked.pth.tar", key, locked, own, {"split": "omp"}, drawn)
    tickets.write_ticket(folder / "signed_ticket.pth.tar", signed, own, {})
    wrong_key, wrong_locked = key_masks.split(random_mask(blank, 7), {
        name: torch.where(kept, 1.0, -torch.inf) for name, kept in random_mask(blank, 7).items()}, 0.05)
    key_masks.write_split(folder / "wrong_key.pth.tar", folder / "wrong_locked.pth.tar", wrong_key, wrong_locked, own, {})
    tickets.write_weights(folder / "locked_trained.pth.tar", trained(locked, 4, digits), {}, locked)

    (folder / "owner.key").write_bytes(as_pem(OWNER_KEY))
    (folder / "owner.key").chmod(0o600)
    done = run_main("make_claim.py", "--owner", OWNER, "--sign", folder / "owner.key", "--v1", folder / "locked.pth.tar",
                    "--key", folder / "key.pth.tar", "--v2", folder / "v2.json", "--v3", folder / "triggers", "--trigger_key",
                    folder / "trigger.key", "--checkpoint", folder / "own.pth.tar", "--dataset", "digits", "--tolerance", 1,
                    "--save_dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def documented_blocks() -> dict[str, str]:
    """The Python blocks of docs/extending.md: what the first line's comment says -> the lines below it."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^```python\n# (.+?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


@pytest.fixture
def documented_entries(monkeypatch):
    """Adds the entries that docs/extending.md shows to the registries, for one test: {registry: names added}."""
    import datasets
    import models

    added = {}
    for module, registry in ((models, "ARCHITECTURES"), (datasets, "DATASETS")):
        entries = eval("{" + documented_blocks()[f"{module.__name__}/__init__.py, in {registry}"] + "}", vars(module))
        for name, entry in entries.items():
            assert name not in getattr(module, registry)
            monkeypatch.setitem(getattr(module, registry), name, entry)
        added[registry] = list(entries)
    return added


@pytest.fixture(scope="session")
def refused():
    """refused(completed_process) -> the message of a script that refused its input as it should.

    That is exit code 2, and one line on stderr that begins with the script's name.
    """

    def check(done: subprocess.CompletedProcess) -> str:
        assert done.returncode == 2, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert len(done.stderr.splitlines()) == 1, done.stderr
        script = next(Path(word).name for word in done.args if word.endswith(".py"))
        assert done.stderr.startswith(f"{script}: error: "), done.stderr
        return done.stderr

    return check
