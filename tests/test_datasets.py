"""Pictures in memory: augmentation against a slow oracle, splits, subsets, and every way pictures can be supplied."""

import errno
import hashlib
import io
import itertools
import os
import pickle
import re
import shutil
import struct
import tarfile
import urllib.error
import zlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from sklearn import datasets as sklearn_datasets

from datasets import DATASETS, cifar, imagefolder, load_dataset
from datasets.decoding import read_rgb
from datasets.pictures import Dataset, Pictures, hold_out, statistics
from models import build_model
from utils import checkpoint
from utils.engine import Engine, TrainingProtocol
from utils.errors import UserError
from utils.run_dir import TrainingFiles


# so short that a mistake which goes unnoticed does not hold up the tests
SHORT = ("--epochs", 3, "--limit", 20, "--pruning_times", 0)


def numbered(count: int, size: int, flip: bool, seed: int = 0) -> Dataset:
    """Random pictures whose label is their own number, so that a batch tells which pictures it was made of."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    pictures = Pictures(torch.from_numpy(images), torch.arange(count))
    return Dataset("numbered", pictures, pictures, pictures, tuple(map(str, range(count))), (0,) * 3, (1,) * 3, flip)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def possible_crops(image: np.ndarray, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every picture that augmentation may make of this one -> (down, right, mirrored), by the slow way."""
    size = len(image)
    pad = size // 8
    canvas = np.zeros((size + 2 * pad, size + 2 * pad, 3), dtype=np.uint8)
    canvas[pad:pad + size, pad:pad + size] = image
    crops = {}
    for down, right, mirrored in itertools.product(range(2 * pad + 1), range(2 * pad + 1), (False, True)[:1 + flip]):
        crop = canvas[down:down + size, right:right + size]
        crops[(crop[:, ::-1] if mirrored else crop).tobytes()] = (down, right, mirrored)
    return crops


def to_bytes(picture: torch.Tensor) -> bytes:
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().tobytes()


# --- augmentation -----------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(size=st.sampled_from((8, 12, 16, 32)), count=st.integers(2, 40), batch=st.integers(1, 50), flip=st.booleans(),
       seed=st.integers(0, 2**32 - 1))
def test_every_picture_comes_once_an_epoch_as_one_of_its_possible_crops(size, count, batch, flip, seed):
    data = numbered(count, size, flip, seed)
    batches = list(data.train_batches(batch, generator(seed)))
    assert all(len(images) == len(labels) for images, labels in batches)
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(count))
    for images, labels in batches:
        assert images.dtype == torch.float32 and images.shape[1:] == (3, size, size)
        assert images.is_contiguous(memory_format=torch.channels_last)
        for picture, label in zip(images, labels):
            assert to_bytes(picture) in possible_crops(data.train.images[label].numpy(), flip)
            assert torch.equal((picture * 255).round() / 255, picture), "pixels must be whole numbers over 255"


def test_full_batches_have_the_size_asked_for():
    sizes = [len(labels) for _, labels in numbered(50, 8, False).train_batches(16, generator(0))]
    assert sizes == [16, 16, 16, 2]
    # one picture alone has no batch statistics
    assert [len(labels) for _, labels in numbered(49, 8, False).train_batches(16, generator(0))] == [16, 16, 17]


@pytest.mark.parametrize("flip", [False, True])
def test_offsets_and_flips_are_uniform_and_independent(flip):
    data = numbered(600, 16, flip)
    crops = [possible_crops(image, flip) for image in data.train.images.numpy()]
    draws = generator(1)
    seen = {cell: 0 for cell in crops[0].values()}
    first, second = [], []
    for epoch in range(8):
        for images, labels in data.train_batches(64, draws):
            for picture, label in zip(images, labels.tolist()):
                cell = crops[label][to_bytes(picture)]
                seen[cell] += 1
                if epoch < 2:
                    (first, second)[epoch].append((label, cell))
    assert len(seen) == 25 * (1 + flip)
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4
    if flip:
        mirrored = sum(count for (_, _, mirror), count in seen.items() if mirror)
        assert stats.binomtest(mirrored, sum(seen.values()), 0.5).pvalue > 1e-4
    # a picture is drawn anew each epoch: it keeps its crop about once in 25 (50) times
    kept = sum(dict(first)[label] == cell for label, cell in second)
    assert stats.binomtest(kept, 600, 1 / len(seen)).pvalue > 1e-4
    assert [label for label, _ in first] != [label for label, _ in second]


def test_batches_depend_on_the_generator_and_on_nothing_else():
    data = numbered(40, 8, True)

    def epoch(draws):
        return [(images.clone(), labels.clone()) for images, labels in data.train_batches(16, draws)]

    one = epoch(generator(5))
    torch.manual_seed(99)
    two = epoch(generator(5))
    other = epoch(generator(6))
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, two))
    assert not all(torch.equal(b, d) for (_, b), (_, d) in zip(one, other))
    before = generator(5)
    state = before.get_state()
    epoch(before)
    assert not torch.equal(before.get_state(), state), "the next epoch must not repeat this one"


def test_evaluation_batches_are_the_pictures_themselves_in_order():
    pictures = numbered(23, 8, True).test
    images = torch.cat([images for images, _ in pictures.batches(10)])
    assert torch.cat([labels for _, labels in pictures.batches(10)]).tolist() == list(range(23))
    assert np.array_equal(images.numpy(), pictures.images.numpy().transpose(0, 3, 1, 2).astype(np.float32) / 255)


# --- statistics, subsets, held-out pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 999, 1000, 2501])
def test_statistics_equal_numpys(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 5, 7, 3), dtype=np.uint8)
    images[..., 1] //= 3
    mean, std = statistics(torch.from_numpy(images))
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-9)


def test_statistics_of_one_colour_are_safe_to_divide_by():
    assert statistics(torch.full((4, 8, 8, 3), 255, dtype=torch.uint8)) == ((1.0,) * 3, (1e-6,) * 3)


def with_labels(counts: list[int], seed: int = 0) -> Dataset:
    labels = torch.from_numpy(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)))
    images = torch.arange(len(labels))[:, None, None, None].expand(-1, 1, 1, 3)  # "pixels" that tell the position
    pictures = Pictures(images, labels)
    return Dataset("counted", pictures, pictures, pictures, tuple(map(str, range(len(counts)))), (0,), (1,), False)


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=8), share=st.floats(0, 1),
       seed=st.integers(0, 2**63 - 1))
def test_a_limited_data_set_is_balanced(counts, share, seed):
    data = with_labels(counts)
    size = max(1, round(share * len(data.train)))
    limited = data.limited(size, seed)
    assert len(limited.train) == size
    taken = torch.bincount(limited.train.labels, minlength=len(counts)).tolist()
    for own, available in zip(taken, counts):  # a class has fewer than another only where it has no more to give
        assert own >= max(taken) - 1 or own == available
    positions = limited.train.images[:, 0, 0, 0]
    assert len(torch.unique(positions)) == size
    assert torch.equal(limited.train.labels, data.train.labels[positions])
    assert limited.val is data.val and limited.test is data.test
    again = data.limited(size, seed)
    assert torch.equal(again.train.images, limited.train.images)


def test_the_seed_chooses_the_subset():
    data = with_labels([50, 50])
    subsets = {tuple(data.limited(20, seed).train.images[:, 0, 0, 0].tolist()) for seed in range(5)}
    assert len(subsets) == 5


def test_more_pictures_than_there_are_is_refused():
    with pytest.raises(UserError, match="--limit 101.*100"):
        with_labels([50, 50]).limited(101, 1)


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=6), share=st.sampled_from((0.1, 0.2, 0.5)))
def test_held_out_pictures_are_a_share_of_every_class(counts, share):
    pictures = with_labels(counts).train
    rest, held = hold_out(pictures, share, len(counts))
    assert torch.bincount(held.labels, minlength=len(counts)).tolist() == [max(1, round(share * n)) for n in counts]
    for part in (rest, held):
        positions = part.images[:, 0, 0, 0]
        assert torch.equal(positions, positions.sort().values)
        assert torch.equal(part.labels, pictures.labels[positions])
    assert sorted(rest.images[:, 0, 0, 0].tolist() + held.images[:, 0, 0, 0].tolist()) == list(range(len(pictures)))


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_split_by_class():
    data, source = load_dataset("digits"), sklearn_datasets.load_digits()
    assert (data.num_classes, data.flip, data.train.images.shape[1:]) == (10, False, (8, 8, 3))
    found, expected = [], []
    for part in (data.train, data.val, data.test):
        assert (part.images == part.images[..., :1]).all()
        found += [(label, image[..., 0].numpy().tobytes()) for label, image in zip(part.labels.tolist(), part.images)]
    for label, image in zip(source.target.tolist(), source.images):
        expected.append((label, np.floor(image * 255 / 16 + 0.5).astype(np.uint8).tobytes()))
    assert sorted(found) == sorted(expected)
    total = np.bincount(source.target)
    test, val = (torch.bincount(part.labels).numpy() for part in (data.test, data.val))
    assert test.tolist() == [round(0.2 * n) for n in total]
    assert val.tolist() == [round(0.1 * (n - t)) for n, t in zip(total, test)]
    np.testing.assert_allclose(data.mean, (data.train.images.double() / 255).mean((0, 1, 2)), rtol=1e-12)


def test_digits_are_never_mirrored():
    data = load_dataset("digits", limit=100)
    by_label = {}
    for image, label in zip(data.train.images.numpy(), data.train.labels.tolist()):
        by_label.setdefault(label, {}).update(possible_crops(image, flip=False))
    for images, labels in data.train_batches(32, generator(0)):
        for picture, label in zip(images, labels.tolist()):
            assert to_bytes(picture) in by_label[label]


def test_digits_have_one_size():
    assert load_dataset("digits", image_size=8).train.images.shape[1] == 8
    with pytest.raises(UserError, match="--image_size 16"):
        load_dataset("digits", image_size=16)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_the_registry_names_loaders_that_exist(name):
    source = DATASETS[name]
    assert callable(getattr(__import__(source.module, fromlist=["_"]), source.loader)) and source.title


# --- CIFAR in its standard folder -------------------------------------------------------------------------------------


@pytest.fixture
def fake_cifar(tmp_path, monkeypatch):
    """fake_cifar("cifar10") -> (root, images, fine labels) of 6,000 official pictures, each with its number in it."""

    def make(name: str):
        dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
        key, classes = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
        rng = np.random.default_rng(3)
        folder = tmp_path / name / dataset.base_folder
        folder.mkdir(parents=True)

        def write(files, count):
            images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
            labels = rng.integers(0, classes, count)
            for (file, _), i, l in zip(files, np.array_split(images, len(files)), np.array_split(labels, len(files))):
                entry = {"data": i.reshape(len(i), -1), key: l.tolist()}
                if name == "cifar100":
                    entry["coarse_labels"] = [label // 5 for label in entry[key]]
                (folder / file).write_bytes(pickle.dumps(entry))
            return images.transpose(0, 2, 3, 1), labels

        train, test = write(dataset.train_list, 6000), write(dataset.test_list, 300)
        meta = folder / dataset.meta["filename"]
        meta.write_bytes(pickle.dumps({dataset.meta["key"]: [f"class {i}" for i in range(classes)]}))
        # existence is enough: the checksums are those of the real files
        monkeypatch.setattr(dataset, "train_list", [[file, None] for file, _ in dataset.train_list])
        monkeypatch.setattr(dataset, "test_list", [[file, None] for file, _ in dataset.test_list])
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})
        return tmp_path / name, train, test

    return make


@pytest.mark.parametrize("name, classes", [("cifar10", 10), ("cifar100", 100)])
def test_validation_is_the_last_5000_of_the_official_order(fake_cifar, name, classes):
    root, (images, labels), (test_images, test_labels) = fake_cifar(name)
    data = load_dataset(name, str(root))
    assert data.classes == tuple(f"class {i}" for i in range(classes)) and data.flip
    assert np.array_equal(data.train.images, images[:1000]) and np.array_equal(data.train.labels, labels[:1000])
    assert np.array_equal(data.val.images, images[1000:]) and np.array_equal(data.val.labels, labels[1000:])
    assert np.array_equal(data.test.images, test_images) and np.array_equal(data.test.labels, test_labels)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    with pytest.raises(UserError, match="--image_size 16"):
        load_dataset(name, str(root), image_size=16)


def no_network(*args, **kwargs):
    raise urllib.error.URLError("no network in tests")


@pytest.mark.slow
def test_the_official_archive_is_unpacked_without_a_network(fake_cifar, monkeypatch):
    root, (images, _), _ = fake_cifar("cifar10")
    dataset = torchvision.datasets.CIFAR10
    archive = root / dataset.filename
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(root / dataset.base_folder, dataset.base_folder)
    shutil.rmtree(root / dataset.base_folder)
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    assert np.array_equal(load_dataset("cifar10", str(root)).train.images, images[:1000])


@pytest.mark.parametrize("name, archive", [("cifar10", "cifar-10-python.tar.gz"),
                                           ("cifar100", "cifar-100-python.tar.gz")])
def test_missing_cifar_is_one_line_with_three_ways(monkeypatch, run_main, refused, tmp_path, name, archive):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    message = refused(run_main("main_imp.py", *SHORT, "--dataset", name, "--data", tmp_path / "nothing",
                               "--save_dir", tmp_path / "run"))
    for way in ("machine with a network", archive, "--dataset imagefolder", str(tmp_path / "nothing")):
        assert way in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, archive", [("cifar10", "cifar-10-python.tar.gz"), ("cifar100", "cifar-100-python.tar.gz")])
def test_a_damaged_archive_is_there_but_damaged(monkeypatch, tmp_path, name, archive):
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    (tmp_path / archive).write_bytes(b"half a download")
    with pytest.raises(UserError, match=f"{archive} is there, but damaged \\(checksum\\), and can't be downloaded anew"):
        load_dataset(name, str(tmp_path))
    assert (tmp_path / archive).read_bytes() == b"half a download"


@pytest.mark.parametrize("name, file", [("cifar10", "data_batch_3"), ("cifar10", "batches.meta"), ("cifar100", "train"),
                                        ("cifar100", "meta")])
def test_a_damaged_or_missing_file_of_the_unpacked_folder_is_named(fake_cifar, monkeypatch, name, file):
    root, *_ = fake_cifar(name)
    dataset = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    path = root / dataset.base_folder / file
    path.unlink()
    with pytest.raises(UserError, match=f"{dataset.base_folder}/{file} is missing, and can't be downloaded"):
        load_dataset(name, str(root))
    path.write_bytes(b"changed")
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, attribute, [[other, "0" * 32 if other == file else None]
                                                 for other, _ in getattr(dataset, attribute)])
    if file == dataset.meta["filename"]:
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": "0" * 32})
    with pytest.raises(UserError, match=f"{dataset.base_folder}/{file} is there, but damaged"):
        load_dataset(name, str(root))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_standard_folder_one_level_off_is_named(fake_cifar, monkeypatch, name):
    root, *_ = fake_cifar(name)
    unpacked = next(root.iterdir())
    for given in (root.parent, unpacked):
        with pytest.raises(UserError, match=re.escape(f"{name} lies one level off; give --data {root}") + "$"):
            load_dataset(name, str(given))


def test_an_archive_that_can_not_be_unpacked_says_why(monkeypatch, tmp_path):
    def full(*words, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", full)
    with pytest.raises(UserError, match="--data .*: No space left"):
        load_dataset("cifar10", str(tmp_path))


def test_the_validation_size_is_the_papers():
    assert cifar.VALIDATION_PICTURES == 5_000


# --- folders of pictures ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed: int, size=(8, 8), channels: int = 3) -> np.ndarray:
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_folder(root, train: int = 12, test: int = 3, classes=("cat", "dog"), size=(8, 8)) -> dict[str, np.ndarray]:
    """PNG pictures under train/<class>/ and test/<class>/; returns relative path -> pixels."""
    pixels = {}
    for part, count in (("train", train), ("test", test)):
        for name, number in itertools.product(classes, range(count)):
            path = f"{part}/{name}/{number:03}.png"
            pixels[path] = picture(len(pixels), size)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[path]).save(root / path)
    return pixels


def as_found(data: Dataset) -> dict[tuple[int, bytes], int]:
    """(label, pixels) of train and validation pictures together, and of test pictures, counted."""
    found = {}
    for part, pictures in (("train", data.train), ("train", data.val), ("test", data.test)):
        for image, label in zip(pictures.images, pictures.labels.tolist()):
            key = (part, label, image.numpy().tobytes())
            found[key] = found.get(key, 0) + 1
    return found


def as_made(pixels: dict[str, np.ndarray], classes) -> dict:
    made = {}
    for path, image in pixels.items():
        part, name, _ = path.split("/")
        key = (part, list(classes).index(name), image.tobytes())
        made[key] = made.get(key, 0) + 1
    return made


def test_classes_are_the_sorted_folder_names(tmp_path):
    pixels = make_folder(tmp_path / "pics", classes=("zebra", "10", "ant", "Bee", "2"))
    data = load_dataset("imagefolder", str(tmp_path / "pics"))
    assert data.classes == ("10", "2", "Bee", "ant", "zebra") and data.name == "pics" and data.flip
    assert as_found(data) == as_made(pixels, data.classes)


def test_a_tenth_of_every_class_is_for_validation(tmp_path):
    counts = {"a": 20, "b": 31, "c": 5}
    for name, count in counts.items():
        make_folder(tmp_path, train=count, classes=(name,))
    data = load_dataset("imagefolder", str(tmp_path))
    assert torch.bincount(data.val.labels).tolist() == [2, 3, 1]
    assert torch.bincount(data.train.labels).tolist() == [18, 28, 4]
    mean, _ = statistics(data.train.images)
    assert data.mean == mean


@pytest.mark.parametrize("suffix, mode, options", [
    (".png", "RGB", {}), (".png", "L", {}), (".png", "RGBA", {}), (".png", "LA", {}), (".png", "P", {}),
    (".png", "1", {}), (".webp", "RGB", {"lossless": True}), (".webp", "RGBA", {"lossless": True, "exact": True}),
    (".gif", "L", {}), (".bmp", "RGB", {}), (".tiff", "RGB", {}), (".png", "I;16", {})])
def test_lossless_formats_are_read_exactly(tmp_path, suffix, mode, options):
    make_folder(tmp_path)
    target = picture(77)
    if mode == "RGB":
        image, expected = Image.fromarray(target), target
    elif mode in ("L", "I;16"):
        image, expected = Image.fromarray(target[..., 0]), np.repeat(target[..., :1], 3, axis=2)
        if mode == "I;16":  # the same grey on a finer scale
            image = Image.fromarray(target[..., 0].astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):  # colours count, whatever the transparency
        alpha = picture(78)[..., :1] // 2 + 1
        colours = target if mode == "RGBA" else target[..., :1]
        image = Image.fromarray(np.concatenate([colours, alpha], axis=2))
        assert image.mode == mode
        expected = target if mode == "RGBA" else np.repeat(target[..., :1], 3, axis=2)
    elif mode == "P":
        image = Image.fromarray(picture(79)[..., 0] % 16)
        palette = picture(80, (16, 1))[0]
        image.putpalette(palette.tobytes())
        assert image.mode == mode
        expected = palette[np.asarray(image)]
    else:
        image = Image.fromarray((target[..., 0] > 99))
        expected = np.repeat((target[..., :1] > 99).astype(np.uint8) * 255, 3, axis=2)
    image.save(tmp_path / "test/cat" / f"odd{suffix}", **options)
    data = load_dataset("imagefolder", str(tmp_path))
    assert ("test", 0, np.ascontiguousarray(expected).tobytes()) in as_found(data)


def test_jpeg_is_read(tmp_path):
    make_folder(tmp_path)
    for mode, colour, expected in (("RGB", (200, 40, 90), (200, 40, 90)), ("L", 77, (77,) * 3)):
        Image.new(mode, (8, 8), colour).save(tmp_path / f"test/cat/{mode}.jpg", quality=95)
        data = load_dataset("imagefolder", str(tmp_path))
        flat = data.test.images.reshape(len(data.test), -1, 3).int()
        assert ((flat - torch.tensor(expected)).abs() <= 3).all(2).all(1).any()


def test_photographs_are_turned_as_their_camera_was_held(tmp_path):
    make_folder(tmp_path)
    upright = picture(77)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "test/cat/photo.png", exif=exif)
    assert ("test", 0, upright.tobytes()) in as_found(load_dataset("imagefolder", str(tmp_path)))


@pytest.mark.parametrize("values", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), 1 << 16, np.int32),
                                    np.full((8, 8), -1, np.int32)])
def test_pictures_of_an_unknown_range_are_refused(tmp_path, values):
    make_folder(tmp_path)
    Image.fromarray(values).save(tmp_path / "test/cat/odd.tiff")
    with pytest.raises(UserError, match="odd.tiff"):
        load_dataset("imagefolder", str(tmp_path))


def deep(bits: int, suffix: str, seed: int) -> Image.Image:
    """A grey picture whose values use so many bits, all of them; of 32 bits as TIFF, of 16 as PNG."""
    values = np.random.default_rng(seed).integers(0, 1 << bits, (8, 8))
    values[0, 0] = (1 << bits) - 1
    return Image.fromarray(values.astype(np.int32 if suffix == ".tiff" else np.uint16))


@pytest.mark.parametrize("suffix, bits", [(".png", 8), (".png", 12), (".png", 16), (".tiff", 8), (".tiff", 10), (".tiff", 16),
                                          (".png", 1)])
def test_deep_pictures_have_one_range_for_all(tmp_path, capsys, suffix, bits):
    """A picture that is darker than others stays so; none is black for using few of its bits."""
    make_folder(tmp_path)
    bright = deep(bits, suffix, 1)
    dark = Image.fromarray(np.asarray(bright) // 2)
    expected = {}
    for part, name, image in (("test", "bright", bright), ("train", "dark", dark)):
        image.save(tmp_path / part / "cat" / f"{name}{suffix}")
        values = np.asarray(image).astype(float)
        expected[part] = values * 255 / ((1 << bits) - 1)
    data = load_dataset("imagefolder", str(tmp_path))
    for part, images in (("test", data.test.images), ("train", torch.cat((data.train.images, data.val.images)))):
        errors = (images.double() - torch.from_numpy(expected[part])[..., None]).abs().amax((1, 2, 3))
        assert errors.min() <= 1, (part, errors.min())
    assert f"white is {(1 << bits) - 1} in all pictures" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [12, 14, 16])
def test_deep_pictures_in_colour_are_never_silently_dark(tmp_path, bits):
    """Pillow gives the upper halves alone; so files of 16-bit colours, big-endian, are made by hand."""
    values = np.random.default_rng(0).integers(0, 1 << bits, (8, 8, 3)).astype(">u2")
    values[0, 0] = (1 << bits) - 1

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    make_folder(tmp_path)
    (tmp_path / "test/cat/deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)) +
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))) + chunk(b"IEND", b""))
    if bits < 16:
        with pytest.raises(UserError, match="16-bit pictures in colour use at most 14"):
            load_dataset("imagefolder", str(tmp_path))
        with pytest.raises(UserError, match="deep.png.*16-bit"):
            read_rgb(tmp_path / "test/cat/deep.png")
    else:
        expected = (values >> 8).astype(np.uint8)
        assert ("test", 0, expected.tobytes()) in as_found(load_dataset("imagefolder", str(tmp_path)))


@pytest.mark.parametrize("bits, suffix, good", [(8, ".tiff", False), (12, ".png", False), (16, ".png", True)])
def test_one_deep_picture_alone_says_its_range_or_is_refused(tmp_path, bits, suffix, good):
    image = deep(bits, suffix, 1)
    image.save(tmp_path / f"one{suffix}")
    if good:
        assert np.array_equal(np.asarray(read_rgb(tmp_path / f"one{suffix}"))[..., 0], np.asarray(image) >> 8)
    else:
        with pytest.raises(UserError, match="nothing says how many of them are used"):
            read_rgb(tmp_path / f"one{suffix}")


def test_pictures_are_found_in_folders_of_folders(tmp_path, capsys):
    """As torchvision reads them, Tiny-ImageNet's images/ among them; what is no picture is counted and named once."""
    make_folder(tmp_path)
    plain = sum(as_found(load_dataset("imagefolder", str(tmp_path))).values())
    assert capsys.readouterr().err == ""
    added = {"train/cat/images/a.png": 901, "train/cat/more/and more/b.png": 902, "test/cat/images/c.png": 903,
             "test/dog/no_ending": 904}
    for name, seed in added.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(tmp_path / name, "PNG")
    os.symlink(tmp_path / "train/cat/images", tmp_path / "train/dog/linked")
    os.symlink("..", tmp_path / "test/dog/round")  # would never end
    os.symlink("nowhere", tmp_path / "test/dog/broken.png")
    for name in ("train/cat/Thumbs.db", "train/cat/boxes.txt", "train/README.txt", "test/dog/desktop.ini", "train/cat/.hidden"):
        (tmp_path / name).write_text("no picture")
    for name in ("train/@eaDir", "train/cat/@eaDir", "test/dog/.thumbnails"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture(9)).save(tmp_path / name / "thumbnail.jpg")
    found = as_found(load_dataset("imagefolder", str(tmp_path)))
    assert sum(found.values()) == plain + 5
    for name, seed in added.items():
        assert any(content == picture(seed).tobytes() for _, _, content in found), name
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "8 entries are no pictures and left out, such as train/@eaDir" in err


@pytest.mark.parametrize("given", ["pics/train", "."])
def test_a_folder_of_pictures_one_level_off_is_named(tmp_path, given):
    make_folder(tmp_path / "pics")
    with pytest.raises(UserError, match=re.escape(f"it lies one level off; give --data {tmp_path / 'pics'}") + "$"):
        load_dataset("imagefolder", str(tmp_path / given))


def test_programs_dressed_as_pictures_are_not_interpreted(tmp_path):
    make_folder(tmp_path)
    Image.fromarray(picture(3)).save(tmp_path / "test/cat/program.eps")
    (tmp_path / "test/cat/program.eps").rename(tmp_path / "test/cat/program.png")
    with pytest.raises(UserError, match="program.png"):
        load_dataset("imagefolder", str(tmp_path))


def test_mixed_sizes_ask_for_image_size(tmp_path, run_main, refused):
    make_folder(tmp_path / "pics", size=(16, 16))
    Image.fromarray(picture(1, (20, 16))).save(tmp_path / "pics/train/cat/wide.png")
    with pytest.raises(UserError, match="wide.png.*--image_size"):
        load_dataset("imagefolder", str(tmp_path / "pics"))
    message = refused(run_main("main_imp.py", *SHORT, "--dataset", "imagefolder", "--data", tmp_path / "pics",
                               "--save_dir", tmp_path / "run"))
    assert "wide.png" in message and "20x16" in message
    assert load_dataset("imagefolder", str(tmp_path / "pics"), image_size=12).train.images.shape[1:] == (12, 12, 3)


@pytest.mark.parametrize("size", [(24, 16), (7, 7)])
def test_pictures_that_are_not_square_or_too_small_ask_for_image_size(tmp_path, size):
    make_folder(tmp_path, size=size)
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}.*--image_size"):
        load_dataset("imagefolder", str(tmp_path))
    assert load_dataset("imagefolder", str(tmp_path), image_size=8).test.images.shape[1:] == (8, 8, 3)


def test_train_and_test_of_different_sizes_ask_for_image_size(tmp_path):
    make_folder(tmp_path, test=0, size=(16, 16))
    make_folder(tmp_path, train=0, size=(24, 24))
    with pytest.raises(UserError, match="--image_size"):
        load_dataset("imagefolder", str(tmp_path))


def test_resizing_keeps_proportions_and_the_centre(tmp_path):
    make_folder(tmp_path)
    stripes = np.zeros((16, 48, 3), dtype=np.uint8)  # three squares side by side: red, green, blue
    for channel in range(3):
        stripes[:, 16 * channel:16 * channel + 16, channel] = 255
    Image.fromarray(stripes).save(tmp_path / "test/cat/stripes.png")
    data = load_dataset("imagefolder", str(tmp_path), image_size=8)
    names = sorted(path.name for path in (tmp_path / "test/cat").iterdir())
    inner = data.test.images[names.index("stripes.png")][:, 1:-1].reshape(-1, 3)
    assert (inner == torch.tensor([0, 255, 0])).all()


def test_pictures_of_the_size_asked_for_are_left_alone(tmp_path):
    pixels = make_folder(tmp_path, size=(12, 12))
    assert as_found(load_dataset("imagefolder", str(tmp_path), image_size=12)) == as_made(pixels, ("cat", "dog"))


def test_image_size_below_8_is_refused(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(UserError, match="--image_size 7"):
        load_dataset("imagefolder", str(tmp_path), image_size=7)


@pytest.mark.parametrize("part, other", [("train", "test"), ("test", "train")])
def test_a_class_in_one_part_only_is_named(tmp_path, part, other):
    make_folder(tmp_path)
    shutil.copytree(tmp_path / part / "cat", tmp_path / part / "lynx")
    with pytest.raises(UserError, match="lynx"):
        load_dataset("imagefolder", str(tmp_path))


@pytest.mark.parametrize("make, names", [
    (lambda root: shutil.rmtree(root / "test"), "test/"),
    (lambda root: shutil.rmtree(root), "train/"),
    (lambda root: [path.unlink() for path in (root / "train/dog").iterdir()], "dog"),
    (lambda root: [shutil.rmtree(root / part / "dog") for part in ("train", "test")], "2 class"),
    (lambda root: [path.unlink() for path in sorted((root / "train/dog").iterdir())[1:]], "at least 2 pictures"),
    (lambda root: (root / "train/dog/empty.png").write_bytes(b""), "empty.png"),
])
def test_a_layout_that_can_not_be_used_is_named(tmp_path, make, names):
    make_folder(tmp_path / "pics")
    make(tmp_path / "pics")
    with pytest.raises(UserError, match=names):
        load_dataset("imagefolder", str(tmp_path / "pics"))


def test_hidden_files_and_folders_are_no_pictures(tmp_path):
    pixels = make_folder(tmp_path)
    (tmp_path / "train/.thumbnails").mkdir()
    (tmp_path / "train/cat/.DS_Store").write_bytes(b"x")
    assert as_found(load_dataset("imagefolder", str(tmp_path))) == as_made(pixels, ("cat", "dog"))


def test_without_a_folder_the_flag_is_named(run_main, refused, tmp_path):
    message = refused(run_main("main_imp.py", *SHORT, "--dataset", "imagefolder", "--save_dir", tmp_path / "run"))
    assert "--data" in message


def test_a_corrupt_picture_is_named(tmp_path, run_main, refused):
    make_folder(tmp_path / "pics")
    victim = tmp_path / "pics/train/dog/007.png"
    victim.write_bytes(victim.read_bytes()[:-40])
    message = refused(run_main("main_imp.py", *SHORT, "--dataset", "imagefolder", "--data", tmp_path / "pics",
                               "--save_dir", tmp_path / "run"))
    assert str(victim) in message
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format, options", [
    ("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("ICO", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("TGA", {})])
def test_no_damage_to_a_picture_is_a_traceback(tmp_path, format, options):
    whole = io.BytesIO()
    Image.fromarray(picture(1, (16, 16))).save(whole, format, **options)
    whole, rng = whole.getvalue(), np.random.default_rng(0)
    path, unreadable = tmp_path / "damaged", 0
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[int(rng.integers(len(whole))):]
        else:
            for place in rng.integers(0, min(len(whole), 80 if trial % 3 == 1 else len(whole)), 3):
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            image = imagefolder._read(path, 8)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            unreadable += 1
        else:
            assert image.shape == (8, 8, 3)
    assert unreadable > 10  # the damage was real


# --- the cache of decoded pictures ------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """Paths that Pillow was asked to open."""
    paths, real = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, *rest, **more: (paths.append(path), real(path, *rest, **more))[1])
    return paths


def load_twice(root, opened, **options):
    """A second load; returns it and how many pictures it decoded."""
    opened.clear()
    return load_dataset("imagefolder", str(root), **options), len(opened)


def test_the_second_load_decodes_nothing(tmp_path, opened):
    pixels = make_folder(tmp_path)
    first = load_dataset("imagefolder", str(tmp_path))
    assert len(opened) >= len(pixels)
    second, decoded = load_twice(tmp_path, opened)
    assert decoded == 0
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(first, part).images, getattr(second, part).images)
        assert torch.equal(getattr(first, part).labels, getattr(second, part).labels)


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "size"])
def test_the_cache_is_not_used_after_a_change(tmp_path, opened, change):
    pixels = make_folder(tmp_path)
    load_dataset("imagefolder", str(tmp_path))
    path, options = tmp_path / "train/cat/003.png", {}
    if change == "content":
        pixels["train/cat/003.png"] = picture(500)
        Image.fromarray(pixels["train/cat/003.png"]).save(path)
    elif change == "added":
        pixels["test/dog/new.png"] = picture(501)
        Image.fromarray(picture(501)).save(tmp_path / "test/dog/new.png")
    elif change == "removed":
        path.unlink()
        del pixels["train/cat/003.png"]
    elif change == "renamed":
        path.rename(tmp_path / "train/dog/other.png")
        pixels["train/dog/other.png"] = pixels.pop("train/cat/003.png")
    else:
        options["image_size"] = 9
    data, decoded = load_twice(tmp_path, opened, **options)
    assert decoded > 0
    if change == "size":
        assert data.train.images.shape[1:] == (9, 9, 3)
    else:
        assert as_found(data) == as_made(pixels, ("cat", "dog"))
    assert load_twice(tmp_path, opened, **options)[1] == 0


def test_a_damaged_cache_is_decoded_anew(tmp_path, opened):
    pixels = make_folder(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    load_dataset("imagefolder", str(tmp_path))
    (cache,) = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    for damaged in (cache.read_bytes()[:300], b"", b"x" * 1000):
        cache.write_bytes(damaged)
        data, decoded = load_twice(tmp_path, opened)
        assert decoded > 0 and as_found(data) == as_made(pixels, ("cat", "dog"))
        assert load_twice(tmp_path, opened)[1] == 0


@pytest.fixture
def read_only(monkeypatch):
    """read_only(folder): nothing can be written under it, for root too, whom permissions do not stop."""
    folders, real = [], checkpoint.write_atomic

    def write(path, *content):
        if any(os.path.abspath(path).startswith(f"{folder}{os.sep}") for folder in folders):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *content)

    monkeypatch.setattr(checkpoint, "write_atomic", write)
    return folders.append


def test_a_read_only_folder_is_cached_elsewhere(tmp_path, opened, read_only):
    pixels = make_folder(tmp_path / "pics")
    read_only(tmp_path / "pics")
    assert as_found(load_dataset("imagefolder", str(tmp_path / "pics"))) == as_made(pixels, ("cat", "dog"))
    data, decoded = load_twice(tmp_path / "pics", opened)
    assert decoded == 0 and as_found(data) == as_made(pixels, ("cat", "dog"))


def test_without_any_place_for_a_cache_pictures_still_load(tmp_path, opened, read_only):
    pixels = make_folder(tmp_path / "pics")
    read_only(tmp_path)
    for _ in range(2):
        data, decoded = load_twice(tmp_path / "pics", opened)
        assert decoded > 0 and as_found(data) == as_made(pixels, ("cat", "dog"))


def test_two_read_only_folders_do_not_share_a_cache(tmp_path, read_only):
    """As when two sets of uncompressed pictures come out of archives that set all times alike."""
    read_only(tmp_path / "a")
    read_only(tmp_path / "b")
    for name, shift in (("a", 0), ("b", 1000)):
        for path, image in make_folder(tmp_path / name / "pics").items():
            target = tmp_path / name / "pics" / path
            target.unlink()
            Image.fromarray(picture(shift + int(image[0, 0, 0]))).save(target.with_suffix(".bmp"))
            os.utime(target.with_suffix(".bmp"), (1, 1))
    a, b = (load_dataset("imagefolder", str(tmp_path / name / "pics")) for name in "ab")
    assert not torch.equal(a.test.images, b.test.images)


# --- real pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_real_cifar_pictures_train_better_than_chance(test_data, tmp_path):
    """A few hundred lossless WebP pictures out of the archive, through the folder reader, into ResNet-20."""
    archive = test_data / "cifar10-part1of2.tar.gz"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there")
    classes = ("airplane", "automobile", "bird")
    with tarfile.open(archive, "r|gz") as tar:  # a stream: its first members are test/airplane, test/automobile, ...
        for member in tar:
            part, name, file = member.name.removeprefix("./").split("/") if member.isfile() else ("", "", "")
            if name and name not in classes:
                break
            number = int(file.removesuffix(".webp")) if file else 999
            if number < 240:
                target = tmp_path / ("train" if number < 160 else "test") / name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
    data = load_dataset("imagefolder", str(tmp_path))
    assert data.classes == classes and data.train.images.shape == (3 * 144, 32, 32, 3)
    assert len(data.val) == 3 * 16 and len(data.test) == 3 * 80
    torch.manual_seed(1)
    trainer = Engine(build_model("res20s", 3, data.mean, data.std), torch.device("cpu"))
    done = trainer.fit(data, TrainingProtocol(6, 0.05, (4,), 32, 0.9, 1e-4), TrainingFiles(tmp_path / "run"), 1)
    hits = round(done.test_acc_last / 100 * len(data.test))
    assert stats.binomtest(hits, len(data.test), 1 / 3, alternative="greater").pvalue < 1e-4


def test_pillows_remarks_stay_silent_and_the_filters_as_they_were(tmp_path, monkeypatch):
    import warnings

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # 64 pixels: Pillow warns of each on opening it
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(20):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / part / label / f"{index}.png")
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        load_dataset("imagefolder", str(tmp_path))
    assert not heard and warnings.filters == before


@pytest.mark.parametrize(("side", "batch"), [(8, 100), (32, 100), (64, 25), (224, 2), (700, 1)])
def test_large_pictures_come_in_smaller_batches(side, batch):
    """As much memory as 100 of 32x32 take, and at least one."""
    count = min(batch + 1, 101)
    pictures = Pictures(torch.zeros(count, side, side, 3, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    assert [len(labels) for _, labels in pictures.batches(100)] == [batch, 1]


def test_augmentation_takes_the_memory_of_a_batch(monkeypatch, make_dataset):
    """A padded copy of all training pictures would be 2.6 times their bytes at 32x32; none is made."""
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.uint8:
                largest.append(out.numel())
            return out

    data = make_dataset(train=640, size=16)
    with Sizes():
        for _ in data.train_batches(32, torch.Generator().manual_seed(1)):
            pass
    assert max(largest) == 32 * 20 * 20 * 3
