#!/usr/bin/env bash
# Train the embedded model `lite` anew, and print the table of docs/lite.md.
#
#     examples/train_lite.sh VOC OUT
#
# VOC holds JPEGImages, SegmentationClassAug, labels.csv, classes.txt and lists/{train,train_aug,val}.txt.
# Needs: pip install '.[docs]'. Every step is skipped or resumed when it is called again.
set -euo pipefail
voc=$1 out=$2
here=$(dirname "${BASH_SOURCE[0]}")
photos=$voc/JPEGImages masks=$voc/SegmentationClassAug
labels=(--labels "$voc/labels.csv" --classes "$voc/classes.txt")
mkdir -p "$out"

# 1. The classifier, from ImageNet's weights and image-level labels.
[ -f "$out/imagenet.safetensors" ] || python "$here/imagenet_start.py" "$out/imagenet.safetensors"
pixaff train-cam "$photos" "${labels[@]}" --list "$voc/lists/train_aug.txt" --out "$out/model" --resume \
    --init "$out/imagenet.safetensors" --size 256:448 --crop 320 --epochs 4 --lr 5e-5 --head-lr-scale 20 \
    --weight-decay 1e-2 --precision fp32 --seed 0

# 2. Its activation maps, sharpened with much and with little background.
pixaff cam "$photos" "${labels[@]}" --list "$voc/lists/train_aug.txt" --model "$out/model" --out "$out/cams"
pixaff crf "$photos" --cams "$out/cams" --list "$voc/lists/train_aug.txt" --out "$out/crf"

# 3. The AffinityNet, from the classifier's backbone.
pixaff train-affinity "$photos" --crf-low "$out/crf/low" --crf-high "$out/crf/high" --list "$voc/lists/train_aug.txt" \
    --out "$out/affinity" --resume --init "$out/model/cam.safetensors"
cp "$out/affinity/affinity.safetensors" "$out/model/"

# 4. The numbers of the walk, on every second image of the train list.
python "$here/tune_walk.py" "$photos" "$out/cams" "$masks" "$voc/lists/train.txt" --model "$out/model"

# 5. The table.
"$here/evaluate_lite.sh" "$voc" "$out/model" "$out"
