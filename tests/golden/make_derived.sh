#!/usr/bin/env bash
# How the files of claims by hash were made, once, in a tree of the commit that README.md names: bash make_derived.sh EMPTY_FOLDER
# (a minute of short trainings; another machine gives other weights, salts and keys)
set -euo pipefail
export OMP_NUM_THREADS=1
project=$PWD
python() { "$project/.venv/bin/python" "$project/$1" "${@:2}"; }
cd "$1"
digits="--arch res20s --dataset digits"

python make_claim.py --new_owner_key derived_owner.key.pem
python make_triggers.py --new_key derived.trigger.key
python make_triggers.py --trigger_set keyed --trigger_key derived.trigger.key --trigger_count 32 --num_classes 10 --image_size 8 \
    --save_dir run/triggers
python main_imp.py $digits --epochs 2 --rewind_epoch 1 --rate 0.95 --pruning_times 1 --save_dir run/ticket
python embed_qrcode.py --mask_dir run/ticket/ticket.pth.tar $digits --owner derived_owner.key.pem --owner_name "Jane Doe" \
    --save_dir run/signed
python main_eval_all.py $digits --epochs 1 --mask_dir run/signed/*.weight_mask.pth.tar --pretrained run/ticket/epoch_1.pth.tar \
    --type omp --key_ratio 0.05 --owner derived_owner.key.pem --save_dir run/locked
python make_claim.py --owner "Jane Doe" --sign derived_owner.key.pem --v1 run/locked/locked.pth.tar --key run/locked/key.pth.tar \
    --v2 run/signed/*.claim.json --v3 run/triggers --trigger_key derived.trigger.key --save_dir derived

# what is shown: the locked ticket's masks, the key, answers that are all right
cp run/locked/key.pth.tar derived_key.pth.tar
PYTHONPATH=$project "$project/.venv/bin/python" -c '
from models import build_model
from pruner import tickets
locked = tickets.read_model_file("run/locked/locked.pth.tar", build_model("res20s", 10))
tickets.write_masks("derived_locked_mask.pth.tar", locked.mask)'
sed 's/^image,label/image,predicted_label/' run/triggers/labels.csv > derived_gathered.csv
rm -r run
xz -9e *.pth.tar
