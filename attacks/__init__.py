"""BREAK: what an adversary does to a model or a claim, one file per attack.

To add an attack: write its function in a module here, then one entry in ATTACKS. The functions take a mask and a
complete state_dict, return new ones and change neither; an adversary sees which weights are zero, so a mask here is the
pattern of the weights that are not. Ways to a second claim are in FORGERIES: their functions return an
`attacks.forgeries.second_claim.SecondClaim`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """One entry of the registry; what `main_attack.py` needs to know before torch is loaded.

    module, function: where the attack is. It takes the mask, the weights, `seed`, `level` if it has one, and the values
    of `settings` by name. (finetune also takes what training needs.)
    help: as `--help` explains it.
    settings: flags that are this attack's; they become columns of the table.
    needs_model: whether it also takes the network itself, as `model`.
    has_level: whether it is a matter of degree, so that a sweep makes sense.
    levels: what is done where no level is given; the paper's, and the unattacked model as the first row.
    """

    module: str
    function: str
    help: str
    settings: tuple[str, ...]
    has_level: bool = True
    needs_model: bool = False
    levels: tuple[float, ...] = ()

    def load(self) -> Callable:
        """The function, with everything it imports."""
        return getattr(importlib.import_module(self.module), self.function)


# flags of fake3, of which --claim may say all: where the region lies, and the form of the code in it
PLACE = ("max_name", "start_x", "start_y")
FORMAT = ("version", "error_correction", "mask_pattern")

ADDON = Attack("attacks.addon", "add_on", "opens a share of the pruned entries with noise weights (Table 8)",
               ("noise", "share_of"), levels=(0.0, 0.005, 0.01, 0.02, 0.05, 0.1))

ATTACKS: dict[str, Attack] = {
    "prune": Attack("attacks.prune", "prune", "removes a share of the surviving weights (Tables 5 and 6)",
                    ("how", "include_stem"),
                    levels=(0.0, 0.05, 0.1, 0.2, 0.3, 0.5)),
    "addon": ADDON,
    "fake2": ADDON,
    "finetune": Attack("attacks.finetune", "fine_tune", "trains on, on the same pictures or others",
                       ("free_mask", "no_fc", "epochs", "lr", "decreasing_lr", "batch_size", "warmup", "momentum",
                        "weight_decay"), has_level=False),
    "fake1": Attack("attacks.fake1", "forge", "puts a forged key into a locked ticket of scheme V1 (Figure 5)",
                    ("noise",)),
    "fake3": Attack("attacks.fake3", "replace_code",
                    "writes another signature over the embedded one, with noise weights",
                    ("signature", *PLACE, *FORMAT, "noise", "weights_per_kernel", "insider", "extent"), has_level=False),
    "locate": Attack("attacks.locate", "locate_and_strike",
                     "finds the block that looks most like a code, without the claim, and clears or fills it",
                     ("then", "noise"), has_level=False),
    "forge": Attack("attacks.forgeries.forge", "forge", "makes a second claim that verifies, on the stolen model or a copy (see --by)",
                    ("by",), has_level=False),
    "permute": Attack("attacks.permute", "permute",
                      "renumbers the channels, which changes no output and scatters the code", (), has_level=False,
                      needs_model=True),
}


@dataclass(frozen=True)
class Forgery:
    """One entry of the registry of ways to a second claim (`main_attack.py forge --by`).

    module, function: where it is. It takes the mask, the weights, `seed`, and the values of `settings` by name.
    help: as `--help` explains it.
    settings: flags that are its own; --budget means nothing where all possibilities are looked at, or there is only one.
    claims: "V1", a key, or "V2", a text.
    writes: whether into a copy of the model, so that there is an accuracy to measure.
    """

    module: str
    function: str
    help: str
    settings: tuple[str, ...]
    claims: str = "V2"
    writes: bool = True

    def load(self) -> Callable:
        """The function, with everything it imports."""
        return getattr(importlib.import_module(self.module), self.function)


FORGERIES: dict[str, Forgery] = {
    "search": Forgery("attacks.forgeries.second_claim", "search", "a text that agrees with the model as it is",
                      ("budget", "length", "version", "error_correction"), writes=False),
    "fake1": Forgery("attacks.forgeries.second_claim", "by_key", "a key for it, as if it were a locked ticket", ("key_ratio", "noise"),
                     claims="V1", writes=False),
    "fake2": Forgery("attacks.forgeries.second_claim", "by_adding", "a code written by adding noise weights alone",
                     ("signature", "budget", "version", "error_correction", "noise", "weights_per_kernel", "top_up")),
    "fake3": Forgery("attacks.forgeries.second_claim", "by_replacing",
                     "a code over the owner's, at --claim's place, one by hand, or the block that looks most like a code",
                     ("signature", *PLACE, *FORMAT, "noise", "weights_per_kernel", "insider")),
    "resign": Forgery("attacks.forgeries.second_claim", "by_signing_again",
                      "a code beside the owner's, where it changes least, at the same density",
                      ("signature", "version", "error_correction", "noise")),
}
