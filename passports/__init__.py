"""Passports: scales and shifts of norms that follow from a layer's weights and a secret, whose signs are a signature.

The baselines that lottery verification competes with: DeepIPR (Fan, Ng and Chan, NeurIPS 2019 and TPAMI 2021) and passport-aware
normalization (Zhang et al., NeurIPS 2020). A passport is an attachment: the network is a plain one of the registry, called with
other scales and shifts in its private branch, and what is handed out is that network's plain file (docs/passports.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """One entry of the registry.

    help: as `--help` explains it. public: whether there is a branch without passports, with scales and shifts of its own, which is
    what is handed out; else there is one branch, and its scales and shifts are those of the passports. own_statistics: whether
    the private branch has running statistics of its own. mlp: whether scales and shifts go through a small network before they are
    used, which its owner keeps. triggers: whether a trigger set belongs to it.
    """

    help: str
    public: bool = True
    own_statistics: bool = False
    mlp: bool = False
    triggers: bool = False


SCHEMES: dict[str, Scheme] = {
    "deepipr1": Scheme("one branch, with passports", public=False),
    "deepipr2": Scheme("a branch with passports beside the one that is handed out"),
    "deepipr3": Scheme("deepipr2, and a trigger set in both branches", triggers=True),
    "pan": Scheme("passport-aware normalization: the branch with passports has running statistics and a small network of its own",
                  own_statistics=True, mlp=True),
}

# where passports come from; by VECTOR alone nobody chose them
VECTOR = "vector"
KEY_TYPES: dict[str, str] = {
    VECTOR: "mean patches, drawn like the signature by a hash of owner, name, nonce, ticket and layers; they count in a verdict",
    "random": "pictures of uniform noise",
    "image": "what enters a layer of --pretrained on a training picture",
    "shuffle": "likewise, of 20 pictures, their channels mixed",
}
