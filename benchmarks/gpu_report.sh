#!/usr/bin/env bash
# Does everything run on a CUDA machine (every script, once, in a minute), and how fast? In under 9 minutes:
#
#     bash benchmarks/gpu_report.sh runs/gpu_report
#
# The folder holds a log per part, and a folder per part with its CSV. Run it again after an interruption: finished parts
# are skipped, unfinished ones begin anew. A folder is of one commit, device and size (setting.txt says which), so that no
# part is taken for another's. PYTHON names the interpreter (default: python), DEVICE the device (default: cuda). BUDGET is
# how many seconds one call may take (default: 530); what does not fit waits for the next call, and the exit code is 1 until
# all is done; it is 2 where nothing can be measured. TINY=1 runs everything as small as can be, on the CPU unless DEVICE
# says otherwise: does it run at all?
set -uo pipefail

stop() {
    echo "gpu_report.sh: error: $1" >&2
    exit 2
}

OUT=${1:-}
[ -n "$OUT" ] && [ $# -eq 1 ] || stop "usage: bash benchmarks/gpu_report.sh FOLDER"
PYTHON=${PYTHON:-python}
BUDGET=${BUDGET:-530}
TINY=${TINY:-0}
[[ $BUDGET =~ ^(0|[1-9][0-9]*)$ ]] || stop "BUDGET=$BUDGET: must be a number of seconds"
[[ $TINY =~ ^[01]$ ]] || stop "TINY=$TINY: must be 0 or 1"
if [ "$TINY" = 1 ]; then
    DEVICE=${DEVICE:-cpu}
    words=(--device "$DEVICE" --tiny --no_compile)
else
    DEVICE=${DEVICE:-cuda}
    words=(--device "$DEVICE")
fi

# the device itself answers, so that a driver which only lists it is not believed
chip=$("$PYTHON" -c '
import sys, torch
device = torch.device(sys.argv[1])
torch.zeros(1, device=device)
print(torch.cuda.get_device_name(device) if device.type == "cuda" else device)' "$DEVICE" 2>&1) ||
    stop "DEVICE=$DEVICE: $(tail -n 1 <<<"$chip"); TINY=1 tries everything on the CPU"

code=$(cd "$(dirname "$0")" && git rev-parse HEAD 2>/dev/null && git status --porcelain --untracked-files=no) || code=unknown
code=${code//$'\n'/, changed: }
setting="code $code; device $DEVICE, ${chip##*$'\n'}; TINY=$TINY"
# of the first call, which may have been killed before it had written that
if [ -s "$OUT/setting.txt" ]; then
    [ "$(cat "$OUT/setting.txt")" = "$setting" ] ||
        stop "$OUT: is a report of another setting, see $OUT/setting.txt ($setting now); name another folder"
else
    [ -z "$(ls -A "$OUT" 2>/dev/null | grep -vx setting.txt)" ] ||
        stop "$OUT: holds files that are not this report's; name another folder"
    mkdir -p "$OUT" && printf '%s\n' "$setting" >"$OUT/setting.txt" || stop "$OUT: can't be written; name another folder"
fi
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "$0")/.."

unfinished=0
part() { # part NAME COMMAND...: runs it unless it is done; its output goes to NAME.log
    local name=$1 left=$((BUDGET - SECONDS))
    shift
    if [ -e "$OUT/$name.done" ]; then
        echo "== $name: done before"
    elif [ "$left" -le 0 ]; then
        echo "== $name: no time left, run the same command again"
        unfinished=1
    else
        echo "== $name"
        rm -rf "${OUT:?}/$name"
        # a part that fails or takes too long keeps none of the others from running
        if timeout "$left" "$@" 2>"$OUT/$name.err" | tee "$OUT/$name.log"; then
            touch "$OUT/$name.done"
        else
            echo "== $name: not finished, see $OUT/$name.err" >&2
            tail -n 3 "$OUT/$name.err" >&2
            unfinished=1
        fi
    fi
}

machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>/dev/null || echo "no nvidia-smi"
    echo "$setting"
}
machine | tee "$OUT/machine.log"

benchmark() { # benchmark NAME SCRIPT WORDS...
    local name=$1 script=$2
    shift 2
    part "$name" "$PYTHON" "benchmarks/$script" "$@" "${words[@]}" --out "$OUT/$name"
}

part smoke "$PYTHON" benchmarks/smoke.py --device "$DEVICE" --out "$OUT/smoke"
benchmark res20s train_loop.py --arch res20s --sections loop,epoch,parts,roofline,memory
benchmark res18 train_loop.py --arch res18 --sections loop,roofline,memory
benchmark res20s_uncompiled train_loop.py --arch res20s --sections loop,epoch --no_compile
benchmark res50 train_loop.py --arch res50 --sections loop,roofline
if [ "$TINY" != 1 ]; then
    part tests "$PYTHON" -m pytest -q tests/test_engine.py -k on_cuda
    if grep -qs skipped "$OUT/tests.log"; then
        echo "== tests: not finished, those that need CUDA were skipped, see $OUT/tests.log" >&2
        rm -f "$OUT/tests.done"
        unfinished=1
    fi
fi
exit $unfinished
