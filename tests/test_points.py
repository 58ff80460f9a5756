"""Point clouds as data: loaders, augmentation, PointNet, and the schemes on it through the same scripts."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from datasets import ImageSizeError, load_dataset
from datasets.modelnet import POINTS, read_off, sample
from datasets.points import Clouds, normalised
from models import build_model
from models.pointnet import PointNet, TransformNet
from pruner import tickets
from pruner.channel_groups import channel_groups
from pruner.masks import Mask, prunable_layers
from utils.engine import OPTIMIZERS, Engine, TrainingProtocol
from utils.errors import UserError
from utils.run_dir import TrainingFiles

CUBE = """{header}
0 0 0
1 0 0
1 1 0
0 1 0
0 0 1
1 0 1
1 1 1
0 1 1
4 0 1 2 3
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""


@pytest.fixture(scope="session")
def clouds():
    return load_dataset("digit_points", limit=200)


# --- loaders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["OFF\n8 6 12", "OFF8 6 12", "OFF 8 6 0", "# a cube\nOFF\n# counts\n8 6 0\n", "OFF\r\n8 6 0"])
def test_meshes_are_read_with_the_headers_that_are_about(tmp_path, header):
    (tmp_path / "cube.off").write_text(CUBE.format(header=header), newline="")
    corners, triangles = read_off(tmp_path / "cube.off")
    assert corners.shape == (8, 3) and triangles.shape == (12, 3)
    first, second, third = corners[triangles].swapaxes(0, 1)
    assert np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2 == pytest.approx(6)


@pytest.mark.parametrize("content", ["", "PLY\n", "OFF\n8 6 0\n0 0 0", "OFF\n-1 6 0", "OFF\n99999999999 1 0\n1 1 1",
                                     CUBE.format(header="OFF\n8 7 0"), CUBE.format(header="OFF\n8 6 0").replace("4 0 1 2 3", "4 0 1 2 9"),
                                     CUBE.format(header="OFF\n8 6 0").replace("4 0 1 2 3", "2 0 1 2 3")])
def test_damaged_meshes_are_refused(tmp_path, content):
    (tmp_path / "bad.off").write_text(content)
    with pytest.raises(UserError, match="bad.off: "):
        read_off(tmp_path / "bad.off")


def test_points_are_drawn_by_area():
    """Two triangles in planes of their own, one with four times the other's area; and inside of one, the share below a parallel at
    half its height, which is three quarters."""
    corners = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 9], [1, 0, 9], [0, 1, 9]], float)
    drawn = sample(corners, np.array([[0, 1, 2], [3, 4, 5]]), 40_000, np.random.default_rng(0))
    low = drawn[drawn[:, 2] == 0]
    for count, total, share in ((len(low), 40_000, 0.8), ((low[:, 1] < 1).sum(), len(low), 0.75), ((low[:, 0] < 1).sum(), len(low), 0.75)):
        assert abs(count - share * total) < 4 * np.sqrt(total * share * (1 - share))
    assert (low[:, :2].sum(1) <= 2 + 1e-12).all() and (low >= 0).all()


def test_both_kinds_of_folders_give_normalised_clouds(tmp_path):
    random = np.random.default_rng(1)
    meshes, sampled = tmp_path / "meshes", tmp_path / "sampled"
    names = {part: [f"{kind}_{number:04d}" for kind in ("box", "night_stand") for number in numbers]
             for part, numbers in (("train", range(1, 4)), ("test", range(4, 6)))}
    for part, shapes in names.items():
        for name in shapes:
            kind = name.rpartition("_")[0]
            (meshes / kind / part).mkdir(parents=True, exist_ok=True)
            (sampled / kind).mkdir(parents=True, exist_ok=True)
            (meshes / kind / part / f"{name}.off").write_text(CUBE.format(header="OFF8 6 12"))
            points = np.concatenate([random.normal(5, 2, (POINTS + 3, 3)), random.random((POINTS + 3, 3))], 1)
            np.savetxt(sampled / kind / f"{name}.txt", points, delimiter=",", fmt="%.6f")
        (sampled / f"modelnet40_{part}.txt").write_text("\n".join(shapes) + "\n")
    for folder in (meshes, sampled):
        data = load_dataset("modelnet", str(folder))
        assert data.classes == ("box", "night_stand") and data.name == folder.name
        assert (len(data.train), len(data.val), len(data.test)) == (4, 2, 4)
        assert data.test.labels.tolist() == [0, 0, 1, 1] and data.test.points.shape == (4, POINTS, 3)
        assert data.test.points.mean(1).abs().max() < 1e-6
        assert torch.allclose(data.test.points.norm(dim=2).amax(1), torch.ones(4))
    points = np.loadtxt(sampled / "night_stand/night_stand_0005.txt", delimiter=",")[:POINTS, :3]
    assert np.allclose(data.test.points[3], normalised(points[None])[0], atol=1e-5)
    (sampled / "modelnet40_test.txt").write_text("box_0004\n../../etc/passwd_1\n")
    with pytest.raises(UserError, match="is no name of a shape"):
        load_dataset("modelnet", str(sampled))
    (sampled / "modelnet40_test.txt").write_text("box_0004\nnight_stand_0005\n")
    (sampled / "box/box_0004.txt").write_text("1,2,3\n" * (POINTS - 1))
    with pytest.raises(UserError, match="box_0004.txt: must begin with 1024 lines"):
        load_dataset("modelnet", str(sampled))


def arrays_of(**changed) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    content = {"class_names": np.array(["chair", "sofa"]), "step": np.float64(2 / 4095), "offset": np.float64(-1.0)}
    for part, count in (("train", 6), ("test", 4)):
        content[f"{part}_points"] = random.integers(0, 4096, (count, 8, 3)).astype(np.uint16)
        content[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)
    return {name: array for name, array in {**content, **changed}.items() if array is not None}


def test_a_file_of_arrays(tmp_path):
    content = arrays_of()
    np.savez(tmp_path / "ours.npz", **content)
    data = load_dataset("modelnet", str(tmp_path / "ours.npz"))
    assert (data.name, data.classes, len(data.train), len(data.val)) == ("ours", ("chair", "sofa"), 4, 2)
    raw = content["test_points"] * (2 / 4095) - 1.0
    shifted = raw - raw.mean(1, keepdims=True)
    assert np.allclose(data.test.points, shifted / np.linalg.norm(shifted, axis=2).max(1)[:, None, None], atol=1e-6)


@pytest.mark.parametrize("changed", [
    {"train_labels": None}, {"step": None}, {"train_points": np.zeros((6, 8, 2), np.uint16)}, {"train_points": np.zeros((5, 8, 3), np.uint16)},
    {"test_labels": np.zeros(4, np.int64)}, {"test_labels": np.array([0, 1, 2, 1])}, {"test_labels": np.array([0, 1, -1, 1])},
    {"class_names": np.array(["chair", {}], dtype=object)}, {"test_points": np.full((4, 8, 3), np.nan)}, {"train_labels": np.zeros(6)}])
def test_damaged_arrays_are_refused_in_one_line(tmp_path, changed):
    np.savez(tmp_path / "bad.npz", **arrays_of(**changed))
    with pytest.raises(UserError, match="bad.npz: ") as refusal:
        load_dataset("modelnet", str(tmp_path / "bad.npz"))
    assert "\n" not in str(refusal.value)


def test_a_header_that_claims_more_than_the_file_has_reserves_nothing(tmp_path):
    np.savez(tmp_path / "good.npz", **arrays_of())
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "bomb.npz", "w") as bomb:
        for name in good.namelist():
            content = good.read(name)
            if name == "train_points.npy":
                content = content.replace(b"(6, 8, 3), }" + b" " * 12, b"(6, 8, 3000000000000), }")
                assert b"3000000000000" in content
            bomb.writestr(name, content)
    for name in ("bomb.npz", "absent.npz"):
        with pytest.raises(UserError, match=name):
            load_dataset("modelnet", str(tmp_path / name))


def test_what_means_nothing_to_points_is_refused(run_main, refused, tmp_path):
    with pytest.raises(ImageSizeError, match="--image_size 8: points have no picture's size; leave the flag out"):
        load_dataset("digit_points", image_size=8)
    for arch, dataset, other in (("pointnet_s", "digits", "digit_points"), ("res20s", "digit_points", "cifar10")):
        message = refused(run_main("main_imp.py", "--arch", arch, "--dataset", dataset, "--save_dir", tmp_path / "run"))
        assert re.search(f"--arch {arch}: takes .*, and --dataset {dataset} has .*{other}", message)
    (tmp_path / "trigger.key").write_bytes(b"0123456789abcdef")
    message = refused(run_main("main_eval_trigger.py", "--arch", "pointnet_s", "--dataset", "digit_points", "--trigger_set", "keyed",
                               "--trigger_key", tmp_path / "trigger.key", "--mask_dir", tmp_path / "trigger.key", "--save_dir",
                               tmp_path / "run"))
    assert "--trigger_set keyed: is of pictures, and the task's data are points" in message
    assert not (tmp_path / "run").exists()


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_augmentation_undone_is_the_cloud_with_points_copied_from_its_first():
    random = np.random.default_rng(0)
    data = Clouds(torch.from_numpy(normalised(random.normal(size=(400, 50, 3)))), torch.zeros(400, dtype=torch.int64))
    varied = data.augmentation(torch.Generator().manual_seed(3), flip=False)(torch.arange(400), slice(0, 400)).transpose(1, 2)
    shares, scales, shifts = [], [], []
    for before, after in zip(data.points.double(), varied.double()):
        # two coordinates of what was not dropped give scale and shift: fit them on the first point and the farthest away from it
        moved = (after - after[0]).norm(dim=1) > 1e-6
        if not moved.any():
            continue
        scale = ((after[moved] - after[0]).norm(dim=1) / (before[moved] - before[0]).norm(dim=1)).mean()
        shift = after[0] - scale * before[0]
        assert torch.allclose(after, torch.where(moved[:, None], before, before[:1]) * scale + shift, atol=1e-5)
        shares.append(1 - moved.double().mean()), scales.append(scale), shifts.append(shift)
    assert 0.8 - 1e-6 <= min(scales) < 0.85 and 1.2 < max(scales) <= 1.25 + 1e-6
    shifts = torch.stack(shifts)
    assert shifts.abs().max() <= 0.1 + 1e-6 and (shifts.amax(0) > 0.09).all() and (shifts.amin(0) < -0.09).all()
    assert abs(np.mean(shares) - 0.4375) < 0.06 and max(shares) > 0.8


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch, parameters", [("pointnet", 3.46), ("pointnet_plain", 0.80), ("pointnet_s", 0.02)])
def test_the_order_of_points_does_not_matter(arch, parameters):
    model = build_model(arch, 10).eval()
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}" == f"{parameters:.2f}"
    cloud = torch.randn(2, 3, 40)
    with torch.no_grad():
        logits = model(cloud)
        assert torch.allclose(model(cloud[:, :, torch.randperm(40)]), logits, atol=1e-5)
        assert torch.allclose(model(torch.cat([cloud, cloud[:, :, :7]], 2)), logits, atol=1e-5)  # nor how often one is there
        assert not torch.allclose(model(cloud * 1.1), logits, atol=1e-5)


class TheirTransform(TransformNet):
    """As github.com/yanx27/Pointnet_Pointnet2_pytorch names and computes it; the layers are as here."""

    def forward(self, x):
        size = x.shape[0]
        for number in (1, 2, 3):
            x = torch.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 1024)
        for number in (1, 2):
            x = torch.relu(getattr(self, f"bn{number + 3}")(getattr(self, f"fc{number}")(x)))
        return self.fc3(x).view(size, self.size, self.size) + torch.eye(self.size).flatten().view(1, self.size, self.size)


class Theirs(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.feat = nn.Module()
        self.feat.stn = TheirTransform(3)
        self.feat.conv1, self.feat.conv2, self.feat.conv3 = nn.Conv1d(3, 64, 1), nn.Conv1d(64, 128, 1), nn.Conv1d(128, 1024, 1)
        self.feat.bn1, self.feat.bn2, self.feat.bn3 = nn.BatchNorm1d(64), nn.BatchNorm1d(128), nn.BatchNorm1d(1024)
        self.feat.fstn = TheirTransform(64)
        self.fc1, self.fc2, self.fc3 = nn.Linear(1024, 512), nn.Linear(512, 256), nn.Linear(256, classes)
        self.bn1, self.bn2 = nn.BatchNorm1d(512), nn.BatchNorm1d(256)

    def forward(self, x):
        feat = self.feat
        x = torch.bmm(x.transpose(2, 1), feat.stn(x)).transpose(2, 1)
        x = torch.relu(feat.bn1(feat.conv1(x)))
        x = torch.bmm(x.transpose(2, 1), feat.fstn(x)).transpose(2, 1)
        x = feat.bn3(feat.conv3(torch.relu(feat.bn2(feat.conv2(x)))))
        x = torch.max(x, 2)[0]
        x = torch.relu(self.bn1(self.fc1(x)))
        return torch.log_softmax(self.fc3(torch.relu(self.bn2(self.fc2(x)))), 1)


@pytest.mark.slow
def test_files_of_the_well_known_pointnet_are_read(tmp_path):
    torch.manual_seed(0)
    theirs = Theirs(40)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_var, 0.5, 2), nn.init.normal_(module.running_mean), nn.init.uniform_(module.weight, 0.5, 2)
    torch.save({"epoch": 7, "model_state_dict": theirs.eval().state_dict()}, tmp_path / "best_model.pth")
    ours = build_model("pointnet", 40).eval()
    ours.load_state_dict(tickets.read_model_file(tmp_path / "best_model.pth", ours).need_weights("--pretrained"))
    cloud = torch.randn(3, 3, 30)
    with torch.no_grad():
        assert torch.allclose(ours(cloud).log_softmax(1), theirs(cloud), atol=1e-4)


def test_masks_are_over_convolutions_and_linear_layers_but_the_stem_and_the_classifier():
    assert list(prunable_layers(build_model("pointnet_s", 4))) == ["feat.conv2", "feat.conv3", "fc1"]
    assert not any(isinstance(layer, nn.Linear) for layer in prunable_layers(build_model("alexnet", 4)).values())
    assert len(prunable_layers(build_model("pointnet", 4))) == 2 + 2 + 2 * 6


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_renumbered_channels_compute_the_same(seed):
    torch.manual_seed(seed)
    model, random = build_model("pointnet_s", 5).eval(), np.random.default_rng(seed)
    groups = channel_groups(model)
    assert [len(members) for members in groups.members()] == [32, 64, 128, 64]
    cloud, moved = torch.randn(2, 3, 16), build_model("pointnet_s", 5).eval()
    moved.load_state_dict(groups.renumbered(model.state_dict(), groups.random_order(random)))
    with torch.no_grad():
        assert torch.allclose(moved(cloud), model(cloud), atol=1e-5)
    assert not torch.equal(moved.fc1.weight, model.fc1.weight)


def test_t_nets_are_refused_by_the_channel_graph():
    with pytest.raises(UserError, match="the channel graph can't follow"):
        channel_groups(build_model("pointnet", 5))


# --- training ---------------------------------------------------------------------------------------------------------


def test_adam_is_that_of_pytorch():
    assert OPTIMIZERS["adam"].lr == 1e-3
    protocol = TrainingProtocol(1, 1e-3, (), 8, 0.9, 1e-4, optimizer="adam")
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    steps = OPTIMIZERS["adam"].make(weights[:1], protocol), torch.optim.Adam(weights[1:], 1e-3, (0.9, 0.999), weight_decay=1e-4)
    for step in range(5):
        for weight, optimizer in zip(weights, steps):
            weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (step + 1)
            optimizer.step()
    assert torch.allclose(*weights)


@pytest.mark.slow
def test_a_training_on_points_resumes_with_the_same_bits(clouds, tmp_path):
    protocol = TrainingProtocol(3, 1e-3, (2,), 64, 0.9, 1e-4, optimizer="adam")

    def train(folder: str, stop: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model = PointNet(10, (8, 8, 16, 8), dropout=0.3)

        def interrupt(epoch: int) -> None:
            if epoch == stop:
                raise KeyboardInterrupt

        Engine(model, torch.device("cpu")).fit(clouds, protocol, TrainingFiles(tmp_path / folder), 1, after_epoch=interrupt)
        return model.state_dict()

    whole = train("whole", None)
    with pytest.raises(KeyboardInterrupt):
        train("cut", 2)
    again = train("cut", None)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


# --- the schemes, through the same scripts ----------------------------------------------------------------------------

RUN = ("--arch", "pointnet_s", "--dataset", "digit_points", "--limit", 300, "--lr", 0.01, "--batch_size", 32)


@pytest.fixture(scope="module")
def signed(run_main, tmp_path_factory):
    """A folder with an owner's key, a ticket of half the weights, the same with a code, and a model trained on it."""
    folder = tmp_path_factory.mktemp("points")
    owner, ticket = folder / "owner.key", folder / "ticket/ticket.pth.tar"
    for command in (
            ("make_claim.py", "--new_owner_key", owner),
            ("main_imp.py", *RUN, "--epochs", 2, "--rewind_epoch", 1, "--rate", 0.7, "--pruning_times", 1, "--save_dir", folder / "ticket"),
            ("embed_qrcode.py", "--arch", "pointnet_s", "--dataset", "digit_points", "--mask_dir", ticket, "--owner", owner,
             "--owner_name", "Jane Doe", "--save_dir", folder / "signed")):
        done = run_main(*command)
        assert done.returncode == 0, done.stderr
    masks = next((folder / "signed").glob("*.weight_mask.pth.tar"))
    done = run_main("main_eval_all.py", *RUN, "--epochs", 3, "--pretrained", folder / "ticket/epoch_1.pth.tar", "--mask_dir", masks,
                    "--save_dir", folder / "trained")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_ticket_of_points_is_signed_claimed_attacked_and_proved(signed, run_main, tmp_path):
    model, claim = signed / "trained/model_best.pth.tar", tmp_path / "claim"
    network = build_model("pointnet_s", 10)
    mask = tickets.read_model_file(signed / "ticket/ticket.pth.tar", network).mask
    assert list(mask) == ["feat.conv2", "feat.conv3", "fc1"] and mask.nonzeros == mask.entries - round(0.7 * mask.entries)
    assert tickets.read_model_file(model, network).mask.nonzeros == mask.nonzeros
    done = run_main("make_claim.py", "--arch", "pointnet_s", "--owner", "Jane Doe", "--sign", signed / "owner.key", "--v2",
                    *(signed / "signed").glob("*.claim.json"), "--dataset", "digit_points", "--checkpoint", model, "--save_dir", claim)
    assert done.returncode == 0, done.stderr
    ticket = signed / "ticket/ticket.pth.tar"
    proofs = ("--claim", claim / "claim.json", "--commitment", claim / "commitment.json", "--dataset", "digit_points")
    for attack, *flags in (("prune", "--level", 0.05), ("permute",), ("transform", "--kinds", "scale,sign,permute", "--level", 1e-7, "--no_accuracy")):
        done = run_main("main_attack.py", attack, *RUN[:4], "--checkpoint", model, *flags, "--save_dir", tmp_path / attack)
        assert done.returncode == 0, done.stderr
    for suspect, flags, owned in ((model, (), 0), (tmp_path / "prune/attacked.pth.tar", (), 0),
                                  (tmp_path / "permute/attacked.pth.tar", (), 1),
                                  (tmp_path / "permute/attacked.pth.tar", ("--aligned_to", ticket), 0),
                                  (tmp_path / "transform/attacked.pth.tar", ("--aligned_to", ticket), 0)):
        done = run_main("main_verify.py", *proofs, "--suspect", suspect, *flags)
        assert done.returncode == owned, (suspect, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["ewp", "taylor1_abs", *(pytest.param(score, marks=pytest.mark.nightly)
                                                           for score in ("omp", "betweenness", "random_path"))])
def test_key_masks_split_off_a_ticket_of_points(signed, run_main, tmp_path, score):
    done = run_main("main_eval_all.py", *RUN, "--epochs", 1, "--mask_dir", signed / "ticket/ticket.pth.tar", "--type", score,
                    "--key_ratio", 0.1, "--score_pictures", 50, "--save_dir", tmp_path / "locked")
    assert done.returncode == 0, done.stderr
    network = build_model("pointnet_s", 10)
    whole, key, locked = (tickets.read_model_file(path, network).mask for path in (
        signed / "ticket/ticket.pth.tar", tmp_path / "locked/key.pth.tar", tmp_path / "locked/locked.pth.tar"))
    assert key.nonzeros == round(0.1 * whole.nonzeros)
    assert Mask({name: key[name] | locked[name] for name in key}) == whole


@pytest.mark.slow
def test_passports_on_points(signed, run_main, tmp_path):
    done = run_main("main_passport.py", *RUN, "--scheme", "pan", "--epochs", 5, "--owner", signed / "owner.key", "--owner_name", "Jane Doe",
                    "--sign_loss", 1, "--save_dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "passports: pan, vector, 3 layers, 256 bits" in done.stdout  # 64 + 128 + 64: the stem has none
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert Image.open(tmp_path / "run/clouds.png").size > (500, 300)
    assert result["signature_acc"] == 100 and result["layers"] == ["feat.conv2", "feat.conv3", "fc1"]
    done = run_main("main_passport.py", *RUN[:4], "--evaluate", "--pretrained", tmp_path / "run/released.pth.tar", "--passports",
                    tmp_path / "run/passports.pt")
    assert done.returncode == 0 and "signature: 256 of 256 bits" in done.stdout, done.stdout + done.stderr
    assert not any(name.startswith("passport") for name in torch.load(tmp_path / "run/released.pth.tar")["state_dict"])
