#!/usr/bin/env bash
# From a clone to a signed winning ticket: ResNet-20 on the embedded digits, on any machine, in under 3 minutes on 2 CPU
# cores (after the installation). Run it again: what is done is skipped. With other words below, give another RUN.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

RUN=${RUN:-runs/quickstart}
OWNER=${OWNER:-Jane Doe}
EPOCHS=30
ROUNDS=6 # 0.8^6: 26.2% of the weights remain

stage() { # stage NAME COMMAND...: runs it and notes how long it took when it first came to its end
    local name=$1 start=$SECONDS
    shift
    printf '\n=== %s: python %s\n' "$name" "$*"
    python "$@"
    grep -q "^$name," "$RUN/seconds.csv" 2>/dev/null || echo "$name,$((SECONDS - start))" >>"$RUN/seconds.csv"
}
mkdir -p "$RUN"

# 1. find a winning ticket: train, prune the smallest fifth, rewind, and again
stage find main_imp.py --dataset digits --arch res20s --epochs $EPOCHS --rate 0.2 --pruning_times $ROUNDS \
    --prune_type lt --rewind_epoch 3 --save_dir "$RUN/ticket"

# 2. write a signature into its mask: a text that follows from the owner's key, so that nobody can have chosen or guessed it
[ -e "$RUN/owner.key" ] || python make_claim.py --new_owner_key "$RUN/owner.key"
stage sign embed_qrcode.py --mask_dir "$RUN/ticket/ticket.pth.tar" --arch res20s --dataset digits \
    --owner "$RUN/owner.key" --owner_name "$OWNER" --save_dir "$RUN/signed"
CLAIM=$(ls -t "$RUN"/signed/*.claim.json | head -n 1)

# 3. train the signed ticket from the same rewound weights
stage train main_eval_all.py --dataset digits --arch res20s --epochs $EPOCHS --type identity \
    --pretrained "$RUN/ticket/epoch_3.pth.tar" --mask_dir "${CLAIM%.claim.json}.weight_mask.pth.tar" --save_dir "$RUN/signed"

# 4. read the signature back out of the trained model
stage read extract_qrcode.py --arch res20s --checkpoint "$RUN/signed/model_best.pth.tar" --claim "$CLAIM" \
    --save_dir "$RUN/extracted"

python scripts/quickstart_report.py "$RUN"
