# Sourced by sweep.sh: one function per stage of the paper's experiments, each a plain command of this project. CELL is
# NETWORK/DATASET; a stage's folder is $RUNS/CELL/seedSEED/STAGE, which make_tables.py reads.
# shellcheck disable=SC2086,SC2154  # EPOCHS, TICKET, TRAINING, FINETUNING and PASSPORTS are lists of words; sweep.sh sets them

ticket() { # ticket CELL SEED: the winning ticket (Table 1); all other stages start from it
    task "${1#*/}"
    cmd python main_imp.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TICKET --rewind_epoch 3 $TRAINING \
        --save_dir "$(at $1 $2)/ticket"
}

whole() { # whole CELL SEED: the ticket retrained, nothing done to it
    task "${1#*/}"
    cmd python main_eval_all.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TRAINING \
        --mask_dir "$(at $1 $2)/ticket/ticket.pth.tar" --save_dir "$(at $1 $2)/whole"
}

# --- scheme V1 --------------------------------------------------------------------------------------------------------

locked() { # locked CELL SEED SCORE RATIO: a key split off, the rest retrained (Figure 2)
    task "${1#*/}"
    score "$3"
    cmd python main_eval_all.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TRAINING "${SCORE[@]}" \
        --key_ratio "$4" --mask_dir "$(at $1 $2)/ticket/ticket.pth.tar" --save_dir "$(at $1 $2)/locked/$3_$4"
}

forged() { # forged CELL SEED SCORE RATIO: a random key in the true one's place, retrained (Figure 5, fake1)
    task "${1#*/}"
    cmd python main_eval_all.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TRAINING --add_back \
        --mask_dir "$(at $1 $2)/locked/$3_$4/locked.pth.tar" --save_dir "$(at $1 $2)/forged/$3_$4"
}

transferred() { # transferred CELL SEED SCORE RATIO DATASET: the locked ticket on other pictures (Table 4)
    task "$5"
    cmd python main_eval_all.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TRAINING --no_fc \
        --mask_dir "$(at $1 $2)/locked/$3_$4/locked.pth.tar" --save_dir "$(at $1 $2)/transferred_$5/$3_$4"
}

# --- scheme V2 --------------------------------------------------------------------------------------------------------

signed() { # signed CELL SEED: the signature written into the ticket's masks (Figure 1)
    cmd python embed_qrcode.py --arch "${1%/*}" --dataset "${1#*/}" --seed "$2" --signature "$SIGNATURE" \
        --mask_dir "$(at $1 $2)/ticket/ticket.pth.tar" --save_dir "$(at $1 $2)/signed"
}

signed_trained() { # signed_trained CELL SEED: the signed ticket retrained (Table 2)
    task "${1#*/}"
    cmd python main_eval_all.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TRAINING --type identity \
        --pretrained "$(at $1 $2)/ticket/epoch_3.pth.tar" --mask_dir "$(at $1 $2)/signed/*.weight_mask.pth.tar" \
        --save_dir "$(at $1 $2)/signed_trained"
}

pruned() { # pruned CELL SEED HOW LEVELS: weights removed by magnitude or at random, the stem's too (Table 6, Figures 3 and 4)
    task "${1#*/}"
    cmd python main_attack.py prune --arch "${1%/*}" "${TASK[@]}" --seed "$2" --how "$3" --include_stem --sweep "$4" \
        --checkpoint "$(at $1 $2)/signed_trained/model_best.pth.tar" --claim "$(at $1 $2)/signed/*.claim.json" \
        --save_dir "$(at $1 $2)/pruned_$3"
}

added() { # added CELL SEED LEVELS: noise weights where the ticket has none (Table 8, Figure 6)
    task "${1#*/}"
    cmd python main_attack.py addon --arch "${1%/*}" "${TASK[@]}" --seed "$2" --sweep "$3" \
        --checkpoint "$(at $1 $2)/signed_trained/model_best.pth.tar" --claim "$(at $1 $2)/signed/*.claim.json" \
        --save_dir "$(at $1 $2)/added"
}

replaced() { # replaced CELL SEED [FLAG]: another code over the signature's, by somebody who knows where (fake3)
    task "${1#*/}"
    cmd python main_attack.py fake3 --arch "${1%/*}" "${TASK[@]}" --seed "$2" --signature "$OTHER_SIGNATURE" "${@:3}" \
        --checkpoint "$(at $1 $2)/signed_trained/model_best.pth.tar" --claim "$(at $1 $2)/signed/*.claim.json" \
        --save_dir "$(at $1 $2)/replaced${3:+_${3##*[-=]}}"
}

replaced_insider() { replaced "$1" "$2" --insider; }            # the same, only where the codes differ
replaced_region() { replaced "$1" "$2" --extent=region; }       # ... the square keeps no trained weight
replaced_published() { replaced "$1" "$2" --extent=published; } # ... and is filled up, as in the published code

# --- scheme V3 --------------------------------------------------------------------------------------------------------

trigger_key() { # trigger_key: the owner's secret, made once
    if [ "$TRIGGER_SET" = keyed ] && [ ! -e "$RUNS/trigger.key" ]; then
        cmd python make_triggers.py --new_key "$RUNS/trigger.key"
    fi
}

asked() { # asked CELL SEED: what the ticket that never saw the trigger set says of it (Table 3)
    task "${1#*/}"
    triggers
    cmd python main_attack.py prune --arch "${1%/*}" "${TASK[@]}" --seed "$2" --level 0 "${TRIGGERS[@]}" \
        --checkpoint "$(at $1 $2)/whole/model_best.pth.tar" --save_dir "$(at $1 $2)/asked"
}

triggered() { # triggered CELL SEED: the signed ticket retrained with the trigger set (Table 3)
    task "${1#*/}"
    triggers
    cmd python main_eval_trigger.py --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $TRAINING "${TRIGGERS[@]}" \
        --trigger_per_batch $TRIGGERS_PER_BATCH \
        --pretrained "$(at $1 $2)/ticket/epoch_3.pth.tar" --mask_dir "$(at $1 $2)/signed/*.weight_mask.pth.tar" \
        --save_dir "$(at $1 $2)/triggered"
}

triggered_pruned() { # triggered_pruned CELL SEED LEVELS: its triggers under pruning (Table 5)
    task "${1#*/}"
    triggers
    cmd python main_attack.py prune --arch "${1%/*}" "${TASK[@]}" --seed "$2" --sweep "$3" "${TRIGGERS[@]}" \
        --checkpoint "$(at $1 $2)/triggered/model_best.pth.tar" --save_dir "$(at $1 $2)/triggered_pruned"
}

triggered_replaced() { # triggered_replaced CELL SEED: fake3 on the model with triggers, as in the published code
    task "${1#*/}"
    triggers
    cmd python main_attack.py fake3 --arch "${1%/*}" "${TASK[@]}" --seed "$2" --signature "$OTHER_SIGNATURE" --extent=published \
        "${TRIGGERS[@]}" --checkpoint "$(at $1 $2)/triggered/model_best.pth.tar" --claim "$(at $1 $2)/signed/*.claim.json" \
        --save_dir "$(at $1 $2)/triggered_replaced"
}

tuned() { # tuned CELL SEED DATASET [FLAG...]: the same model trained on with other pictures (section 4.3)
    task "$3"
    triggers
    cmd python main_attack.py finetune --arch "${1%/*}" "${TASK[@]}" --seed "$2" $FINETUNING "${@:4}" $TRAINING \
        "${TRIGGERS[@]}" --checkpoint "$(at $1 $2)/triggered/model_best.pth.tar" --claim "$(at $1 $2)/signed/*.claim.json" \
        --save_dir "$(at $1 $2)/tuned${4:+_${4#--}}/$3"
}

tuned_free() { tuned "$1" "$2" "$3" --free_mask; } # tuned_free CELL SEED DATASET: and pruned weights may grow back

# --- passports, and all schemes beside each other ----------------------------------------------------------------------

owner_key() { # owner_key NAME: somebody's private key, made once
    if [ ! -e "$RUNS/$1.key" ]; then cmd python make_claim.py --new_owner_key "$RUNS/$1.key"; fi
}

passported() { # passported CELL SEED SCHEME: the ticket retrained with passports
    local with=()
    task "${1#*/}"
    triggers
    if [ "$3" = deepipr3 ]; then with=("${TRIGGERS[@]}" --trigger_per_batch "$TRIGGERS_PER_BATCH"); fi
    cmd python main_passport.py --scheme "$3" --arch "${1%/*}" "${TASK[@]}" --seed "$2" --epochs $EPOCHS $PASSPORTS $TRAINING \
        "${with[@]}" --mask_dir "$(at $1 $2)/ticket/ticket.pth.tar" --owner "$RUNS/owner.key" --owner_name "Jane Doe" \
        --save_dir "$(at $1 $2)/passports/$3"
}

robbed() { # robbed CELL SEED MODEL ATTACK [FLAG...]: one of main_attack.py's attacks on a stage's model, or a passport scheme's
    local file=$3/model_best.pth.tar mark=() at
    at=$(at $1 $2)
    task "${1#*/}"
    triggers
    case $3 in
    whole) ;;
    locked) file=locked/omp_0.05/model_best.pth.tar ;;
    signed_trained) mark=(--claim "$at/signed/*.claim.json") ;;
    triggered) mark=("${TRIGGERS[@]}") ;;
    *) file=passports/$3/released.pth.tar mark=(--passports "$at/passports/$3/passports.pt") ;;
    esac
    if [ "$3" = deepipr3 ]; then mark+=("${TRIGGERS[@]}"); fi
    cmd python main_attack.py "$4" --arch "${1%/*}" "${TASK[@]}" --seed "$2" "${@:5}" "${mark[@]}" --checkpoint "$at/$file" \
        --save_dir "$at/robbed/$3/$4"
}

solved() { # solved CELL SEED SCHEME: passports in closed form for what is handed out
    cmd python main_attack.py forge --by solve --arch "${1%/*}" --seed "$2" --no_accuracy --signature thief --owner "$RUNS/thief.key" \
        --owner_name thief --checkpoint "$(at $1 $2)/passports/$3/released.pth.tar" --save_dir "$(at $1 $2)/robbed/$3/solve"
}
