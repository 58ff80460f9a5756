#!/usr/bin/env bash
# Table 3: accuracy on the task and on the trigger set, without and with the set in training (scheme V3). Settings:
# docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10 res20s/cifar100} # network/dataset
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    trigger_key
    each ticket
    stage "signatures"
    each signed
    stage "training without and with the trigger set"
    each whole
    each triggered
    stage "triggers shown to the ticket that does not know them"
    each asked
}
launch table3
