#!/usr/bin/env bash
# The chain, command by command, scored: the table of docs/lite.md.
#
#     examples/evaluate_lite.sh VOC MODEL OUT
#
# MODEL is `lite` or a model folder. VOC is laid out as in train_lite.sh.
set -euo pipefail
voc=$1 model=$2 out=$3
photos=$voc/JPEGImages masks=$voc/SegmentationClassAug

for list in train val; do
    for labels in "$voc/labels.csv" predict; do
        to=$out/$list-$(basename "$labels" .csv)
        common=(--model "$model" --labels "$labels" --list "$voc/lists/$list.txt")
        pixaff cam "$photos" "${common[@]}" --out "$to/cams"
        pixaff propagate "$photos" --cams "$to/cams" "${common[@]}" --no-final-crf --out "$to/walk"
        pixaff propagate "$photos" --cams "$to/cams" "${common[@]}" --final-crf --out "$to/walk-crf"
        echo "== $list list, labels: $(basename "$labels")"
        echo "CAM";         pixaff evaluate --cams "$to/cams" "$masks" --list "$voc/lists/$list.txt" --threshold 0.1:0.5:0.05
        echo "walk";        pixaff evaluate "$to/walk" "$masks" --list "$voc/lists/$list.txt"
        echo "walk + CRF";  pixaff evaluate "$to/walk-crf" "$masks" --list "$voc/lists/$list.txt"
    done
done
