"""All files of a claim in one folder, sorted by who may have them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils import checkpoint
from utils.errors import UserError

PARTS = ("secret", "public", "hand_out")
README = "README.txt"
README_BEGINS = rb"The files of a claim"
TEXT = """The files of a claim of ownership, sorted by who may have them.

secret/    Nobody before a dispute. Keep two copies in two places, with the ticket as it was signed or split.
           claim.json     opens the commitment. Lost: with the owner's key, the same make_claim.py command makes it again;
                          without, the commitment proves nothing.
           owner.key      signs, and draws texts, keys and salts. Lost: nothing new can be claimed with it. Stolen: somebody
                          else signs as you.
           *.claim.json   says where the code lies. key.pth.tar completes a locked ticket. trigger.key makes the trigger set.
                          Lost: that mark can't be shown any more, unless claim.json has it. Stolen: it can be removed.
public/    Everybody, and now: what counts is that others can tell when it was published.
           commitment.json  Lost: nothing, if it was published; the court takes it from there.
hand_out/  The model, or the locked ticket. Nothing else goes with it.
"""


def write(folder: str | Path, files: Mapping[str, Sequence[str | Path]]) -> None:
    """Copy files, and what is in folders, into PARTS, secrets readable by their owner alone, and say in a README what is what.

    What is there already and the same stays, so that a call that was killed can be made again. Raises UserError where something
    else is there under a name, two files have the same one, or a file can't be read.
    """
    folder = Path(folder)
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700 if part == "secret" else 0o777)
        for path in map(Path, files[part]):
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            for source in inside:
                _copy(source, folder / part / source.relative_to(path.parent), part == "secret")
    checkpoint.save_text(TEXT, folder / README)


def _copy(source: Path, target: Path, secret: bool) -> None:
    if target.exists():
        if checkpoint.sha256(target) != checkpoint.sha256(source):
            raise UserError(f"--bundle: {target} is there and is not {source}; name another folder, or another file")
        return
    with open(source, "rb") as file:
        checkpoint.write_atomic(target, lambda copy: shutil.copyfileobj(file, copy), secret)
