#!/usr/bin/env bash
# Table 6: accuracy under pruning, by magnitude and at random (scheme V2). Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10 res18/cifar100} # network/dataset
LEVELS=${LEVELS:-0,0.05,0.1,0.2,0.3,0.5}
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    each ticket
    stage "signatures"
    each signed
    stage "training of the signed tickets"
    each signed_trained
    stage "pruning"
    each pruned magnitude "$LEVELS"
    each pruned random "$LEVELS"
}
launch table6
