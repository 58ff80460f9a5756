#!/usr/bin/env bash
# Table 1: dense networks and extreme winning tickets. PROFILE, LAUNCH and all else: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10 res20s/cifar100 res18/cifar10 res18/cifar100} # network/dataset
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    each ticket
}
launch table1
