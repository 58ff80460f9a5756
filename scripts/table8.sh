#!/usr/bin/env bash
# Table 8: accuracy and reading under add-on attacks (scheme V2). Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10} # network/dataset
LEVELS=${LEVELS:-0,0.005,0.01,0.02,0.05,0.1}
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    stage "tickets"
    each ticket
    stage "signatures"
    each signed
    stage "training of the signed tickets"
    each signed_trained
    stage "noise weights"
    each added "$LEVELS"
}
launch table8
