"""The golden verdicts: what main_verify.py is asked about the golden files. To make them anew: python tests/golden/verdicts.py

Run it in a tree's root; it is that tree's code that is asked.
"""

import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FILES, VERDICTS = Path(__file__).parent / "files", Path(__file__).parent / "verdicts"


def claim(name: str) -> list[str]:
    return ["--claim", f"{name}/claim.json", "--commitment", f"{name}/commitment.json"]


SHOWN = ["--key", "key.pth.tar", "--trigger_key", "owner.trigger.key", "--dataset", "digits"]  # all that proves `all`
CASES = {
    "owned": [*claim("all"), "--suspect", "model.pth.tar", *SHOWN],
    "owned_v1": [*claim("v1"), "--suspect", "locked.pth.tar", "--key", "key.pth.tar"],
    "owned_v2": [*claim("v2"), "--suspect", "signed_mask.pth.tar"],
    "owned_v3": [*claim("v3"), "--predictions", "gathered.csv", "--trigger_dir", "triggers", "--trigger_key",
                 "owner.trigger.key"],
    "set_alone": [*claim("v3"), "--predictions", "gathered.csv", "--trigger_dir", "triggers"],
    "owned_v3_by_key": [*claim("v3"), "--suspect", "resigned.pth.tar", "--trigger_key", "owner.trigger.key", "--dataset", "digits"],
    "no_commitment": ["--claim", "all/claim.json", "--suspect", "model.pth.tar", *SHOWN],
    "nothing_given": [*claim("all"), "--suspect", "permuted.pth.tar", "--restarts", "0"],
    "not_shown": [*claim("thief"), "--suspect", "model.pth.tar", "--trigger_key", "thief.trigger.key", "--restarts", "0"],
    "not_shown_v1": ["--claim", "v1/claim.json", "--suspect", "locked.pth.tar", "--key", "key.pth.tar"],
    "aligned": [*claim("all"), "--suspect", "permuted.pth.tar", "--aligned_to", "model.pth.tar", "--aligned_committed",
                "--restarts", "0", *SHOWN],
    "aligned_uncommitted": [*claim("all"), "--suspect", "permuted.pth.tar", "--aligned_to", "model.pth.tar", "--restarts", "0"],
    "refused_other_commitment": ["--claim", "v2/claim.json", "--commitment", "v1/commitment.json", "--suspect", "model.pth.tar"],
    "refused_changed": ["--claim", "changed/claim.json", "--commitment", "all/commitment.json", "--suspect", "model.pth.tar"],
    "refused_trigger_key": [*claim("v3"), "--suspect", "model.pth.tar", "--trigger_key", "thief.trigger.key"],
    "rivals": [*claim("all"), *claim("thief"), "--suspect", "resigned.pth.tar", *SHOWN, "--trigger_key", "thief.trigger.key",
               "--own", "model.pth.tar", "--own", "resigned.pth.tar", "--restarts", "0"],
    "owned_derived": [*claim("derived"), "--suspect", "derived_locked_mask.pth.tar", "--key", "derived_key.pth.tar"],
    "owned_derived_v3": [*claim("derived"), "--predictions", "derived_gathered.csv", "--trigger_key", "derived.trigger.key"],
    "rivals_refused": ["--claim", "changed/claim.json", "--commitment", "all/commitment.json", *claim("thief"),
                       "--suspect", "resigned.pth.tar"],
}


def unpack(folder: Path) -> None:
    """The golden files in a folder that does not exist yet, models unpacked."""
    shutil.copytree(FILES, folder)
    for packed in folder.glob("*.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


def ask(name: str, folder: Path, run: Callable[..., subprocess.CompletedProcess]) -> dict[str, str]:
    """What is compared, by the ends of the files' names: the JSON file without the versions of libraries; all that is printed,
    and the exit code. run: runs main_verify.py with these arguments in `folder`."""
    verdict = folder / f"{name}.verdict"
    done = run(*CASES[name], "--json", verdict.name)
    content = json.loads(verdict.read_text(encoding="utf-8"))
    del content["versions"]
    return {".json": json.dumps(content, indent=2, ensure_ascii=False) + "\n",
            ".txt": f"{done.stdout}{done.stderr}exit code {done.returncode}\n"}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "golden"
        unpack(folder)
        script = Path("main_verify.py").resolve()
        for name in CASES:
            texts = ask(name, folder, lambda *args: subprocess.run([sys.executable, script, *args], cwd=folder, text=True,
                                                                   capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}))
            for end, text in texts.items():
                (VERDICTS / f"{name}{end}").write_text(text, encoding="utf-8")
            print(f"{name}: {texts['.txt'].splitlines()[-2]}")


if __name__ == "__main__":
    main()
