#!/usr/bin/env bash
# Numbers that the paper has in its text alone: fine-tuning attacks on scheme V3 (section 4.3), another code in the place of the
# owner's (fake3, section 4.4). Settings: docs/running_sweeps.md
set -euo pipefail

NETWORK=${NETWORK:-res20s}
TRANSFERS=${TRANSFERS:-cifar10:cifar100 cifar100:cifar10} # found on:fine-tuned on
CELLS=${CELLS:-res20s/cifar10} # network/dataset, for fake3
SEEDS=${SEEDS:-1}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    local transfer seed from to
    for transfer in $TRANSFERS; do for seed in $SEEDS; do
        from=$NETWORK/${transfer%:*} to=${transfer#*:}
        stage "ticket of $from, with signature and triggers"
        trigger_key
        ticket "$from" "$seed"
        signed "$from" "$seed"
        triggered "$from" "$seed"
        stage "fine-tuning on $to"
        tuned "$from" "$seed" "$to"
        tuned_free "$from" "$seed" "$to"
    done; done
    stage "tickets"
    each ticket
    stage "signatures"
    each signed
    stage "training of the signed tickets"
    each signed_trained
    stage "another code over the signature's"
    each replaced_published
    each replaced_region
    each replaced
    each replaced_insider
    stage "the same on the models with triggers"
    trigger_key
    each triggered
    each triggered_replaced
}
launch text_numbers
