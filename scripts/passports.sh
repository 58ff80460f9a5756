#!/usr/bin/env bash
# Lottery verification beside the passports of DeepIPR and of passport-aware normalization: one ticket, one training, the same
# attacks (docs/passports.md). Settings: docs/running_sweeps.md
set -euo pipefail

CELLS=${CELLS:-res20s/cifar10} # network/dataset
SCHEMES=${SCHEMES:-deepipr1 deepipr2 deepipr3 pan}
SEEDS=${SEEDS:-1}
# flags of trainings with passports, for which 0.1 is too much in one branch; of attacks that train
PASSPORTS=${PASSPORTS:---lr 0.01 --passport_config scripts/lib/passport_layers.json}
ATTACKING=${ATTACKING:---epochs 5 --lr 0.01}

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    local model scheme
    stage "tickets"
    each ticket
    stage "the owner's and the thief's keys"
    trigger_key
    owner_key owner
    owner_key thief
    stage "lottery verification: nothing, a key mask, a code, triggers"
    each whole
    each locked omp 0.05
    each signed
    each signed_trained
    each triggered
    stage "passports"
    for scheme in $SCHEMES; do each passported "$scheme"; done
    stage "removal"
    for model in whole locked signed_trained triggered $SCHEMES; do
        each robbed "$model" finetune $ATTACKING $TRAINING
        each robbed "$model" prune --sweep 0,0.2,0.5,0.8
        each robbed "$model" addon --sweep 0.02,0.1
        each robbed "$model" transform --kinds sign --level 0.1
        each robbed "$model" permute
    done
    stage "passports: flips, and others in their place"
    for scheme in $SCHEMES; do
        each robbed "$scheme" flip --sweep 0.1,0.5
        each robbed "$scheme" passport_fake1
        each robbed "$scheme" passport_fake2 --sweep 0.5 $ATTACKING $TRAINING
        each robbed "$scheme" passport_fake3 --sweep 0,0.1 $ATTACKING $TRAINING
        each robbed "$scheme" passport_block --sweep 0.1 $ATTACKING $TRAINING
        each solved "$scheme"
    done
}
launch passports
