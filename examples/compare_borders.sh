#!/usr/bin/env bash
# Full or published borders: the walk of a model with either, from the same CAMs, at several alphas.
#
#     examples/compare_borders.sh VOC MODEL OUT LIST
#
# MODEL is `lite` or a model folder. VOC is laid out as in train_lite.sh; labels are given. LIST is a file of image names.
set -euo pipefail
voc=$1 model=$2 out=$3 list=$4
common=(--model "$model" --labels "$voc/labels.csv" --list "$list")
score=("$voc/SegmentationClassAug" --list "$list")

pixaff cam "$voc/JPEGImages" "${common[@]}" --out "$out/cams" > /dev/null
for borders in published full; do
    pixaff propagate "$voc/JPEGImages" --cams "$out/cams" "${common[@]}" --borders "$borders" --no-final-crf \
        --save-scores --out "$out/$borders" > /dev/null
done
for borders in published full; do
    echo "== $borders borders, at the model's alpha"
    pixaff evaluate "$out/$borders" "${score[@]}"
    echo "-- at other alphas"
    pixaff evaluate "$out/$borders" "${score[@]}" --sweep alpha=0.5:4:0.5
done
