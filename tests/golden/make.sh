#!/usr/bin/env bash
# How the files here were made, once, in a tree of the commit that README.md names: bash make.sh EMPTY_FOLDER
# (ten minutes of short trainings at most; another machine gives other weights, salts and keys)
set -euo pipefail
export OMP_NUM_THREADS=1
project=$PWD
python() { "$project/.venv/bin/python" "$project/$1" "${@:2}"; }
cd "$1"
digits="--arch res20s --dataset digits"

# what owner and thief keep secret
for who in owner thief; do
    python make_claim.py --new_owner_key "$who.key.pem"
    python make_triggers.py --new_key "$who.trigger.key"
done
python make_triggers.py --trigger_set keyed --trigger_key owner.trigger.key --trigger_count 24 --num_classes 10 --image_size 8 \
    --save_dir triggers
python make_triggers.py --trigger_set keyed --trigger_key thief.trigger.key --trigger_count 20 --num_classes 10 --image_size 8 \
    --save_dir thief_triggers

# a ticket, signed in two places, locked, and trained with triggers
python main_imp.py $digits --epochs 6 --rewind_epoch 1 --rate 0.6 --pruning_times 1 --save_dir run/ticket
python embed_qrcode.py --mask_dir run/ticket/ticket.pth.tar $digits --signature "Jane Doe 2026" --copies 2 --save_dir run/signed
python main_eval_all.py $digits --epochs 1 --mask_dir run/signed/*.weight_mask.pth.tar --pretrained run/ticket/epoch_1.pth.tar \
    --type omp --key_ratio 0.05 --save_dir run/locked
python main_eval_trigger.py $digits --epochs 30 --trigger_per_batch 8 --mask_dir run/locked/locked.pth.tar --trigger_set folder \
    --trigger_dir triggers --save_dir run/model
cp run/signed/*.claim.json code.json
cp run/signed/*.weight_mask.pth.tar signed_mask.pth.tar
cp run/locked/locked.pth.tar run/locked/key.pth.tar .
cp run/model/model_best.pth.tar model.pth.tar
python extract_qrcode.py --checkpoint model.pth.tar --claim code.json --record_threshold 0.2

# the thief's: channels in another order; a code beside the owner's
python main_attack.py permute $digits --checkpoint model.pth.tar --save_dir run/permuted
python main_attack.py forge --by resign $digits --checkpoint model.pth.tar --signature "John Roe" --claim code.json \
    --save_dir run/resigned
cp run/permuted/attacked.pth.tar permuted.pth.tar
cp run/resigned/attacked.pth.tar resigned.pth.tar
cp run/resigned/forged.claim.json thief_code.json

# what is claimed of it
python make_claim.py --owner "Jane Doe & Söhne" --sign owner.key.pem --v1 locked.pth.tar --key key.pth.tar --v2 code.json \
    --v3 triggers --trigger_key owner.trigger.key --checkpoint model.pth.tar --dataset digits --save_dir all
python make_claim.py --owner "Jane Doe" --v1 locked.pth.tar --key key.pth.tar --save_dir v1
python make_claim.py --owner "Jane Doe" --sign owner.key.pem --v2 code.json --save_dir v2
python make_claim.py --owner "Jane Doe" --v3 triggers --dataset digits --fidelity 95 --tolerance 2 --save_dir v3
python make_claim.py --owner "John Roe" --sign thief.key.pem --v2 thief_code.json --v3 thief_triggers --save_dir thief

# answers that somebody gathered, and a claim that was changed after its commitment
sed 's/^image,label/image,predicted_label/' triggers/labels.csv > gathered.csv
mkdir changed
sed 's/Jane Doe & Söhne/Jane Roe \& Söhne/' all/claim.json > changed/claim.json

# code_first_format.json: of an older commit, where code claims had no copies and no threshold, in its tree
#     python embed_qrcode.py --mask_dir run/ticket/ticket.pth.tar --arch res20s --dataset digits --signature "Jane Doe 2025"
rm -r run thief_triggers
xz -9e *.pth.tar
