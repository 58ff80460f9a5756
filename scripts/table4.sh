#!/usr/bin/env bash
# Table 4: locked tickets on other pictures (fine-tuning attack on scheme V1). Settings: docs/running_sweeps.md
set -euo pipefail

NETWORK=${NETWORK:-res20s}
TRANSFERS=${TRANSFERS:-cifar10:cifar100 cifar100:cifar10} # found on:trained on
SCORES=${SCORES:-omp ewp ewp_walks betweenness betweenness_published}
KEY_RATIO=${KEY_RATIO:-0.05}
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    local transfer seed from to score
    for transfer in $TRANSFERS; do for seed in $SEEDS; do
        from=$NETWORK/${transfer%:*} to=${transfer#*:}
        stage "ticket of $from"
        ticket "$from" "$seed"
        stage "locked tickets of $from"
        for score in $SCORES; do locked "$from" "$seed" "$score" "$KEY_RATIO"; done
        stage "on $to"
        for score in $SCORES; do transferred "$from" "$seed" "$score" "$KEY_RATIO" "$to"; done
    done; done
}
launch table4
