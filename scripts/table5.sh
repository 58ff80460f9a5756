#!/usr/bin/env bash
# Table 5: task and trigger accuracy under pruning (scheme V3). Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10 res20s/cifar100} # network/dataset
LEVELS=${LEVELS:-0,0.05,0.1,0.2,0.5}
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    trigger_key
    each ticket
    stage "signatures"
    each signed
    stage "training with the trigger set"
    each triggered
    stage "pruning"
    each triggered_pruned "$LEVELS"
}
launch table5
