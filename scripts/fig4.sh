#!/usr/bin/env bash
# Figure 4: codes extracted from ResNet-18 under magnitude pruning. Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res18/cifar100 res18/cifar10} # network/dataset; the paper does not say which, its code is about CIFAR-10
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
}
launch fig4
