#!/usr/bin/env bash
# The chain, command by command, scored: the tables of docs/lite.md.
#
#     examples/evaluate_lite.sh VOC MODEL OUT [LIST ...]
#
# MODEL is `lite` or a model folder. VOC is laid out as in train_lite.sh; the lists are val and train.
set -euo pipefail
voc=$1 model=$2 out=$3
shift 3
photos=$voc/JPEGImages masks=$voc/SegmentationClassAug

[ $# -gt 0 ] || set -- val train
for name in "$@"; do
    for labels in "$voc/labels.csv" predict; do
        to=$out/$name-$(basename "$labels" .csv)
        common=(--model "$model" --labels "$labels" --list "$voc/lists/$name.txt")
        score=("$masks" --list "$voc/lists/$name.txt")
        pixaff cam "$photos" "${common[@]}" --out "$to/cams" > /dev/null
        pixaff propagate "$photos" --cams "$to/cams" "${common[@]}" --no-final-crf --out "$to/walk" > /dev/null
        pixaff propagate "$photos" --cams "$to/cams" "${common[@]}" --final-crf --out "$to/walk-crf" > /dev/null
        echo "== $name list, labels: $(basename "$labels")"
        pixaff evaluate --cams "$to/cams" "${score[@]}" --threshold 0.1:0.7:0.05
        echo "-- after the walk"
        pixaff evaluate "$to/walk" "${score[@]}"
        echo "-- after the walk and the CRF"
        pixaff evaluate "$to/walk-crf" "${score[@]}"
    done
done
