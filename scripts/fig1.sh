#!/usr/bin/env bash
# Figure 1: a layer's mask before and after a signature was written into it. Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10} # network/dataset
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    each ticket
    stage "signatures"
    each signed
}
launch fig1
