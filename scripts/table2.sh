#!/usr/bin/env bash
# Table 2: accuracy of tickets with a signature in their masks (scheme V2). Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10 res20s/cifar100 res18/cifar10 res18/cifar100} # network/dataset
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    each ticket
    stage "signatures"
    each signed
    stage "training of the signed tickets"
    each signed_trained
}
launch table2
