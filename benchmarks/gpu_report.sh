#!/usr/bin/env bash
# Measures everything about speed on a CUDA machine, in under 9 minutes:
#
#     bash benchmarks/gpu_report.sh runs/gpu_report
#
# The folder holds a log per part, and a folder per part with its CSV. Run it again after an interruption: finished parts
# are skipped, unfinished ones begin anew. PYTHON names the interpreter (default: python), DEVICE the device (default: cuda). BUDGET is how many seconds
# one call may take (default: 530); what does not fit waits for the next call, and the exit code is 1 until all is done.
# TINY=1 runs everything as small as can be, on the CPU unless DEVICE says otherwise: does it run at all?
set -uo pipefail
OUT=${1:?usage: bash benchmarks/gpu_report.sh FOLDER}
PYTHON=${PYTHON:-python}
BUDGET=${BUDGET:-530}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$(dirname "$0")/.."

words=(--device "${DEVICE:-cuda}")
if [ "${TINY:-}" = 1 ]; then
    words=(--device "${DEVICE:-cpu}" --tiny --no_compile)
fi

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
    git rev-parse HEAD 2>/dev/null || true
}
machine | tee "$OUT/machine.log"

benchmark() { # benchmark NAME SCRIPT WORDS...
    local name=$1 script=$2
    shift 2
    part "$name" "$PYTHON" "benchmarks/$script" "$@" "${words[@]}" --out "$OUT/$name"
}

benchmark res20s train_loop.py --arch res20s --sections loop,epoch,parts,roofline,memory
benchmark many_tickets many_tickets.py --arch res20s
benchmark res18 train_loop.py --arch res18 --sections loop,roofline,memory
benchmark res20s_uncompiled train_loop.py --arch res20s --sections loop,epoch --no_compile
benchmark res50 train_loop.py --arch res50 --sections loop,roofline
if [ "${TINY:-}" != 1 ]; then
    part tests "$PYTHON" -m pytest -q tests/test_engine.py tests/test_many.py -k cuda
fi
exit $unfinished
