"""BREAK: what an adversary does to a model or a claim, one file per attack.

To add an attack: write its function in a module here, then one entry in ATTACKS, flags of its own included. The functions take
a mask and a complete state_dict, return new ones and change neither; an adversary sees which weights are zero, so a mask here is
the pattern of the weights that are not. Ways to a second claim are in FORGERIES: their functions return an
`attacks.forgeries.second_claim.SecondClaim`.
"""

import importlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from utils import cli
from utils.run_dir import COPIES


@dataclass(frozen=True, eq=False)
class Flag:
    """A flag of main_attack.py that attacks may share. words: what argparse is told beside its help."""

    name: str
    help: str
    words: Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """What the two registries have in common; what `main_attack.py` needs to know before torch is loaded.

    module, function: where the attack is. It takes the mask, the weights, `seed`, and the values of its flags by name; what is
    said of a code's place and form as one `wish`, and of the weights in each kernel as one `new` (see `attacks.run.values_of`).
    help: as `--help` explains it. flags: those that are its own; they become columns of the table.
    needs_model: whether it also takes the network, as `model`, a forgery its name too, as `arch`.
    """

    module: str
    function: str
    help: str
    flags: tuple[Flag, ...] = ()
    needs_model: bool = False

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of all flags that mean something to it."""
        return tuple(flag.name for flag in self.flags)

    def load(self) -> Callable:
        """The function, with everything it imports."""
        return getattr(importlib.import_module(self.module), self.function)


@dataclass(frozen=True)
class Forgery(Entry):
    """One entry of the registry of ways to a second claim (`main_attack.py forge --by`).

    claims: "V1", a key, "V2", a text, or "P", passports. writes: whether into a copy of the model, so that there is an accuracy to
    measure.
    """

    claims: str = "V2"
    writes: bool = True

    @property
    def leaves(self) -> tuple[str, ...]:
        """The files that make_claim.py asks of the thief, by the names of the result's columns."""
        return {"V1": ("key", "locked"), "V2": ("claim",), "P": ("passports",)}[self.claims]

    @property
    def needs_weights(self) -> bool:
        """Whether a file of masks will not do."""
        return self.claims != "V2"


@dataclass(frozen=True)
class Attack(Entry):
    """One entry of the registry of attacks.

    level: what --level is to it, which its function then takes too; None where it is no matter of degree.
    levels: what is done where no level is given; the paper's, and the unattacked model as the first row.
    training: flags of every training that are this attack's too. needs_pictures: whether it also takes a `training`, an
    `attacks.victim.Training`; it then returns figures beside mask and weights. needs_passports: whether it takes what is in
    --passports, as `passports`.
    """

    level: str | None = None
    levels: tuple[float, ...] = ()
    training: tuple[str, ...] = ()
    needs_pictures: bool = False
    needs_passports: bool = False

    @property
    def settings(self) -> tuple[str, ...]:
        return (*super().settings, *self.training)


HOW = Flag("how", "the smallest weights of all layers together, or any",
           dict(choices=("magnitude", "random"), default="magnitude"))
INCLUDE_STEM = Flag("include_stem", "weights of the stem (conv1) go like the others, as in the published code; what remains is "
                    "counted without it all the same", dict(action="store_true"))
SHARE_OF = Flag("share_of", "what --level is a share of, the pruned entries (as in the paper) or the weights that are there",
                dict(choices=("pruned", "surviving"), default="pruned"))
NOISE = Flag("noise", "standard deviation of the new weights", dict(type=cli.positive_float, default=0.1, metavar="S"))
WITHIN = Flag("within", "where another entry takes each one's place", dict(choices=("kernel", "layer"), default="kernel"))
REWIND = Flag("rewind", "the weights that the ticket was rewound to, of pruned entries too: epoch_3.pth.tar, or a ticket that has them",
              dict(type=cli.path, default=None, metavar="FILE"))
THEN = Flag("then", "empty the block's kernels, or occupy the empty ones with noise weights",
            dict(choices=("clear", "fill"), default="clear"))
ALL_PARAMS = Flag("all_params", "all parameters together, biases, norms and the classifier too, as DeepIPR and passport-aware "
                  "normalization prune", dict(action="store_true"))
FREE_MASK = Flag("free_mask", "let pruned weights grow back (default: they stay zero)", dict(action="store_true"))
NO_FC = Flag("no_fc", "start with a fresh classifier, as is done anyway for another number of classes (DeepIPR's rtal; without: ftal)",
             dict(action="store_true"))

# another signature (paper, section 4.4): where its region lies and the form of its code, of which --claim may say all
SIGNATURE = Flag("signature", "the thief's text", dict(type=cli.utf8_text, default=None, metavar="TEXT"))
PLACE = (
    Flag("max_name", "layer of the region, e.g. layer2.1.conv1", dict(type=cli.text, default=None, metavar="LAYER")),
    Flag("start_x", "first output channel of the region", dict(type=cli.natural, default=None)),
    Flag("start_y", "first input channel of the region", dict(type=cli.natural, default=None)),
)
VERSION = Flag("version", "QR version (default: the smallest from 3 up that holds the text and fits)",
               dict(type=int, choices=range(1, 41), default=None, metavar="1-40"))
ERROR_CORRECTION = Flag("error_correction", "QR level (default: H)", dict(choices=("L", "M", "Q", "H"), default=None))
MASK_PATTERN = Flag("mask_pattern", "QR mask pattern (default: the one that changes the region least)",
                    dict(type=int, choices=range(8), default=None, metavar="0-7"))
FORMAT = (VERSION, ERROR_CORRECTION, MASK_PATTERN)
PER_KERNEL = Flag("weights_per_kernel", "noise weights in each newly occupied kernel (default: as many as the occupied kernels of "
                  "the region have on average; forge --by fake2: of the layer)",
                  dict(type=cli.positive_int, default=None, metavar="N"))
INSIDER = Flag("insider", "rewrite only the kernels that differ (default: clear the region, then write)", dict(action="store_true"))
EXTENT = Flag("extent", "data modules alone are replaced; the whole square becomes noise, as the paper's text has it; or, as in the "
              "published code, it is also filled up with noise weights to the layer's number",
              dict(choices=("data", "region", "published"), default="data"))

# a second claim (paper, section 3.2, the invert process I, and section 4.4)
BUDGET = Flag("budget", "places and mask patterns to look at", dict(type=cli.positive_int, default=1000, metavar="N"))
LENGTH = Flag("length", "of the text", dict(type=cli.positive_int, default=11, metavar="BYTES"))
KEY_RATIO = Flag("key_ratio", "the key's share of the whole ticket (default: as the file of a locked ticket says, else 0.05)",
                 dict(type=cli.ratio, default=None, metavar="R"))
TOP_UP = Flag("top_up", "add weights to kernels at the code's ones that hold fewer than --weights_per_kernel, too",
              dict(action="store_true"))

# passports: who claims those that were solved for, and how others are trained
OWNER = Flag("owner", "the thief's own private key (make_claim.py --new_owner_key)", dict(type=cli.path, default=None, metavar="FILE"))
OWNER_NAME = Flag("owner_name", "the thief's name, as in make_claim.py --owner", dict(type=cli.utf8_text, default=None, metavar="NAME"))
MLP = Flag("mlp", "the small network of scheme pan: trained on from the owner's, trained from scratch, or random and not trained, as in "
           "the published code", dict(choices=("known", "fresh", "random_frozen"), default="known"))
BLOCK = Flag("block", "what scales go through: a small network of all channels (CERB), or of each alone (IERB)",
             dict(choices=("cerb", "ierb"), default="cerb"))

FORGERIES: dict[str, Forgery] = {
    "search": Forgery("attacks.forgeries.second_claim", "search", "a text that agrees with the model as it is",
                      (BUDGET, LENGTH, VERSION, ERROR_CORRECTION), writes=False),
    "fake1": Forgery("attacks.forgeries.second_claim", "by_key", "a key for it, as if it were a locked ticket",
                     (KEY_RATIO, NOISE), claims="V1", writes=False),
    "fake2": Forgery("attacks.forgeries.second_claim", "by_adding", "a code written by adding noise weights alone",
                     (SIGNATURE, BUDGET, VERSION, ERROR_CORRECTION, NOISE, PER_KERNEL, TOP_UP)),
    "fake3": Forgery("attacks.forgeries.second_claim", "by_replacing",
                     "a code over the owner's, at --claim's place, one by hand, or the block that looks most like a code",
                     (SIGNATURE, *PLACE, *FORMAT, NOISE, PER_KERNEL, INSIDER)),
    "resign": Forgery("attacks.forgeries.second_claim", "by_signing_again",
                      "a code beside the owner's, where it changes least, at the same density",
                      (SIGNATURE, VERSION, ERROR_CORRECTION, NOISE)),
    "solve": Forgery("attacks.forgeries.solve", "by_solving",
                     "passports that a public model answers with any text, and as accurately as ever; in closed form, without a picture",
                     (SIGNATURE, OWNER, OWNER_NAME), needs_model=True, claims="P", writes=False),
}

BY = Flag("by", "; ".join(f"{name}: {forgery.help}" for name, forgery in FORGERIES.items()),
          dict(choices=sorted(FORGERIES), default="search"))
KINDS = "scale", "sign", "dead", "duplicate", "split", "permute", "fill", "fold", "dtype"
TRANSFORMS = Flag("kinds", "what is done, in this order, out of " + ", ".join(KINDS),
                  dict(type=cli.names_of(KINDS), default=KINDS, metavar="NAME,NAME"))
SAVE_AS = Flag("save_as", "form of the file: torch's; safetensors, plain weights; or ONNX, which an exporter writes without batch norms",
               dict(choices=tuple(COPIES), default="pth"))
ADDON = Attack("attacks.addon", "add_on", "opens a share of the pruned entries with noise weights (Table 8)", (NOISE, SHARE_OF),
               level="share of the pruned entries that is opened (see --share_of)", levels=(0.0, 0.005, 0.01, 0.02, 0.05, 0.1))

TRAINING = "epochs", "lr", "decreasing_lr", "batch_size", "warmup", "momentum", "weight_decay"

ATTACKS: dict[str, Attack] = {
    "prune": Attack("attacks.prune", "prune", "removes a share of the surviving weights (Tables 5 and 6)", (HOW, INCLUDE_STEM, ALL_PARAMS),
                    level="share of the surviving weights that goes", levels=(0.0, 0.05, 0.1, 0.2, 0.3, 0.5)),
    "addon": ADDON,
    "fake2": ADDON,
    "regrow": Attack("attacks.regrow", "regrow", "replaces a share of the weights by others at random places (or moves any: --how random)",
                     (HOW, WITHIN, NOISE), level="share of the weights that is replaced", levels=(0.0, 0.1, 0.3, 0.5)),
    "unswap": Attack("attacks.unswap", "unswap", "moves weights back that are out of place by the rewind weights", (WITHIN, REWIND),
                     level="share of the weights that moves at most", levels=(0.0, 0.01, 0.03, 0.1), needs_model=True),
    "finetune": Attack("attacks.finetune", "fine_tune", "trains on, on the same pictures or others", (FREE_MASK, NO_FC),
                       training=TRAINING, needs_pictures=True),
    "fake1": Attack("attacks.fake1", "forge", "puts a forged key into a locked ticket of scheme V1 (Figure 5)", (NOISE,),
                    level="the key's share of the whole ticket (default: as the file of the locked ticket says)"),
    "fake3": Attack("attacks.fake3", "replace_code", "writes another signature over the embedded one, with noise weights",
                    (SIGNATURE, *PLACE, *FORMAT, NOISE, PER_KERNEL, INSIDER, EXTENT)),
    "locate": Attack("attacks.locate", "locate_and_strike",
                     "finds the block that looks most like a code, without the claim, and clears or fills it", (THEN, NOISE)),
    "forge": Attack("attacks.forgeries.forge", "forge",
                    "makes a second claim that verifies, on the stolen model or a copy (see --by)", (BY,)),
    "permute": Attack("attacks.permute", "permute", "renumbers the channels, which changes no output and scatters the code",
                      needs_model=True),
    "transform": Attack("attacks.transform", "transform", "other weights, and other numbers of them, that compute the same (see --kinds)",
                        (TRANSFORMS, SAVE_AS), needs_model=True, levels=(0.0, 1e-7, 0.1),
                        level="share of the channels that are added, and size of what fills pruned entries against the weights"),
    # on released nets, by somebody who knows which layers have passports; of the lottery's schemes fake1 to fake3 are above
    "flip": Attack("attacks.flip", "flip", "turns scales over behind layers with passports (DeepIPR's flip_attack.py)", needs_model=True,
                   needs_passports=True, level="share of the scales that change their sign", levels=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0)),
    "passport_fake1": Attack("attacks.passport_fake1", "fake1", "other passports, of 20 random pictures (DeepIPR's passport_attack_1.py)",
                             needs_pictures=True, needs_passports=True),
    "passport_fake2": Attack("attacks.passport_fake2", "fake2",
                             "knows the signs of the private scales, and trains scales and shifts (DeepIPR's passport_attack_2.py)",
                             training=TRAINING, needs_pictures=True, needs_passports=True,
                             level="share of the signs that are turned before (DeepIPR's --flipperc)", levels=(0.0, 0.1, 0.5)),
    "passport_fake2_pan": Attack("attacks.passport_fake2_pan", "fake2_pan",
                                 "trains passports that begin as noise (amb_attack_v3.py --type fake2 of passport-aware normalization)",
                                 training=TRAINING, needs_pictures=True, needs_passports=True),
    "passport_fake3": Attack("attacks.passport_fake3", "fake3",
                             "knows the passports, and trains others away from them (DeepIPR's passport_attack_3.py, PaN's fake3s)", (MLP,),
                             training=TRAINING, needs_pictures=True, needs_passports=True,
                             level="share of each layer's bits that the others are to show turned (--flipperc)", levels=(0.0, 0.1, 0.5)),
    "passport_block": Attack("attacks.passport_block", "block",
                             "knows nothing, and trains scales behind a residual block (Chen et al. 2023)", (BLOCK,),
                             training=TRAINING, needs_pictures=True, needs_passports=True,
                             level="share of the training pictures that the thief has", levels=(0.0, 0.02, 0.1)),
}


def own_flags() -> dict[Flag, str]:
    """All flags of attacks and forgeries, and who takes each, in words."""
    takers: dict[Flag, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for who, registry in (("", ATTACKS), ("forge --by ", FORGERIES)):
        for name, entry in registry.items():
            for flag in entry.flags:
                takers[flag][who].append(name)
    return {flag: "; ".join(who + ", ".join(names) for who, names in theirs.items()) for flag, theirs in takers.items()}
