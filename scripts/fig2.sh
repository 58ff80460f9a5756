#!/usr/bin/env bash
# Figure 2: tickets retrained without their keys, by four scores (scheme V1). Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10 res20s/cifar100 res18/cifar10 res18/cifar100} # network/dataset
# the published code's betweenness and walks beside ours; or random: weights, not paths, at random
SCORES=${SCORES:-betweenness betweenness_published ewp ewp_walks omp random_path random_path_walks}
KEY_RATIOS=${KEY_RATIOS:-0.01 0.05 0.1 0.2}
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    local score ratio
    stage "tickets"
    each ticket
    stage "training of the whole and of the locked tickets"
    each whole
    for score in $SCORES; do for ratio in $KEY_RATIOS; do each locked "$score" "$ratio"; done; done
}
launch fig2
