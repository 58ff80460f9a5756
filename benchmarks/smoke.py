r"""Every entry script once, on the embedded digits: does it run at all on this device? About a minute.

    python benchmarks/smoke.py --device cuda --out runs/smoke_test

The first that fails ends it with its own message. Exit code 0: all ran.
"""

import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from utils import cli


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--out", type=cli.Output(), required=True, metavar="DIR", help="where the runs go; a folder that is not there yet")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    from utils.errors import UserError

    out = Path(args.out)
    if out.exists():
        raise UserError(f"--out {out}: is there already; name another folder")
    for script, words in commands(out, args.device):
        started = time.perf_counter()
        code = importlib.import_module(script.removesuffix(".py")).main(words)
        print(f"== {script} {' '.join(words)}: exit code {code}, {time.perf_counter() - started:.1f} s", flush=True)
    return cli.EXIT_OK


def commands(out: Path, device: str) -> Iterator[tuple[str, list[str]]]:
    """Scripts and their words, each after what it reads has been made."""
    on, short = ["--device", device], ["--dataset", "digits", "--limit", "400", "--epochs", "4"]
    ticket, key, model = f"{out}/ticket/ticket.pth.tar", f"{out}/trigger.key", f"{out}/triggered/model_best.pth.tar"
    yield "main_imp.py", [*short, "--rate", "0.4", "--pruning_times", "2", "--save_dir", f"{out}/ticket", *on]
    yield "embed_qrcode.py", ["--mask_dir", ticket, "--dataset", "digits", "--signature", "smoke", "--save_dir", f"{out}/signed"]
    claim = str(next((out / "signed").glob("*.claim.json")))
    signed = claim.replace(".claim.json", ".weight_mask.pth.tar")
    for split in ("omp", "taylor1_abs"):
        yield "main_eval_all.py", [*short, "--type", split, "--key_ratio", "0.1", "--mask_dir", ticket, "--save_dir", f"{out}/{split}", *on]
    yield "make_triggers.py", ["--new_key", key]
    yield "main_eval_trigger.py", [*short, "--mask_dir", signed, "--pretrained", f"{out}/ticket/epoch_3.pth.tar", "--trigger_set", "keyed",
                                   "--trigger_key", key, "--trigger_per_batch", "32", "--save_dir", f"{out}/triggered", *on]
    yield "extract_qrcode.py", ["--checkpoint", model, "--claim", claim, "--save_dir", f"{out}/extracted"]
    yield "check_triggers.py", ["--checkpoint", model, "--trigger_dir", f"{out}/triggered/triggers"]
    yield "main_attack.py", ["prune", "--dataset", "digits", "--sweep", "0,0.2", "--checkpoint", model, "--claim", claim, "--save_dir",
                             f"{out}/pruned", *on]
    yield "main_attack.py", ["finetune", *short, "--checkpoint", model, "--claim", claim, "--save_dir", f"{out}/tuned", *on]
    yield "make_claim.py", ["--new_owner_key", f"{out}/owner.key"]
    for scheme in ("deepipr1", "pan"):
        yield "main_passport.py", [*short, "--scheme", scheme, "--owner", f"{out}/owner.key", "--owner_name", "smoke",
                                   "--save_dir", f"{out}/{scheme}", *on]
    yield "make_claim.py", ["--owner", "smoke", "--v2", claim, "--checkpoint", model, "--dataset", "digits", "--save_dir", f"{out}/claim", *on]
    yield "main_verify.py", ["--claim", f"{out}/claim/claim.json", "--commitment", f"{out}/claim/commitment.json", "--suspect", model,
                             "--dataset", "digits", *on]


if __name__ == "__main__":
    cli.run(main)
