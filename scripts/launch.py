r"""Run a plan of commands: as many at a time as wanted, each after those whose files it reads; here or on Slurm.

    # a plan is one command per line; "# stage: NAME" is a heading, other comments are ignored
    LAUNCH=print bash scripts/table2.sh > plan.txt
    python scripts/launch.py plan.txt --jobs 2 --logs runs/paper/logs
    # from stdin, four at a time on two GPUs
    LAUNCH=print bash scripts/fig2.sh | python scripts/launch.py --jobs 4 --devices 0,1 --logs runs/paper/logs
    # on a cluster, job arrays through submitit (pip install -r requirements-slurm.txt)
    python scripts/launch.py plan.txt --launch slurm --jobs 20 --partition gpu --minutes 720 --logs runs/paper/logs

A command that names a path in another one's --save_dir (or a key that it makes) waits for it; if that one fails, it is left out,
and all the rest goes on. Each command has LOGS/<its folder>.log and, when it has ended, LOGS/<its folder>.json. The same
plan again runs what is missing: a command that ended well is not run twice, unless one that it depends on was.
Exit code 0: all done, 1: something failed or was left out, 2: bad input.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # a fault before main() must not end with 1, which is a verdict
    sys.excepthook = lambda *fault: os._exit(sys.__excepthook__(*fault) or 3)
    import utils  # noqa: F401  refuses a Python that is too old

from scripts.lib.local_runner import ENDINGS, LocalRunner
from scripts.lib.plans import Logs, check_flags, print_plan, read_plan
from scripts.lib.progress import progress_of, report, run_plan
from scripts.lib.slurm_runner import SlurmRunner
from utils import checkpoint, cli
from utils.errors import UserError


def parse_args(argv: Sequence[str] | None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("plan", nargs="*", type=cli.path, default=["-"], metavar="PLAN", help="files of commands; - is stdin")
    parser.add_argument("--launch", choices=("local", "slurm", "print"), default="local",
                        help="run here, on Slurm, or only print what would be run, in an order that works")
    parser.add_argument("--jobs", type=cli.positive_int, default=1, metavar="N",
                        help="commands at a time; on Slurm, those that wait there among them")
    parser.add_argument("--logs", type=cli.Output(files={}), default="runs/logs", metavar="DIR", help="where logs and records go")
    parser.add_argument("--devices", type=cli.listed(str), default=(), metavar="D,D",
                        help="local: CUDA devices that the commands share, in turn, counted among those that CUDA_VISIBLE_DEVICES "
                             "shows (default: all see all)")

    group = parser.add_argument_group("slurm")
    group.add_argument("--partition", type=cli.text, default=None, metavar="NAME", help="partition")
    group.add_argument("--minutes", type=cli.positive_int, default=1440, metavar="N",
                       help="time limit of a job; at its end it is requeued and goes on from its last epoch")
    group.add_argument("--max_submitted", type=cli.positive_int, default=None, metavar="N",
                       help="jobs of yours that may be in Slurm's queue at once, all other ones included (default: until it refuses "
                            "more; then the rest waits)")
    group.add_argument("--requeues", type=cli.natural, default=20, metavar="N", help="how often that may happen")
    group.add_argument("--gpus", type=cli.natural, default=1, metavar="N", help="GPUs of a job")
    group.add_argument("--cpus", type=cli.positive_int, default=4, metavar="N", help="CPU cores of a job")
    group.add_argument("--memory_gb", type=cli.positive_float, default=None, metavar="GB", help="memory of a job")
    group.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE",
                       help="any other option of sbatch, e.g. --slurm account=lab (may be given several times)")
    group.add_argument("--submitit_cluster", choices=("slurm", "local"), default="slurm",
                       help="local: submitit's own stand-in for Slurm, to try things out")
    args = parser.parse_args(argv)
    for option in args.slurm:
        if not option.partition("=")[0] or "=" not in option:
            parser.error(f"argument --slurm: {option!r}: must be KEY=VALUE")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)

    logs, lines = Logs(Path(args.logs)), []
    for name in args.plan:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines += checkpoint.without_mark(content).decode("utf-8", "surrogateescape").splitlines()
    plan = read_plan(lines, logs.folder)
    if not plan:
        raise UserError(f"{', '.join('stdin' if name == '-' else name for name in args.plan)}: holds no command")
    if args.launch == "print":
        print_plan(plan)
        return cli.EXIT_OK
    check_flags(plan)
    for ending in ENDINGS:  # like Ctrl-C: what runs would not end by itself
        if signal.getsignal(ending) is signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    runner = LocalRunner(logs, args.jobs, args.devices) if args.launch == "local" else SlurmRunner(logs, args)
    return report(run_plan(plan, runner, logs, progress_of(plan)), logs)


if __name__ == "__main__":
    cli.run(main)
