#!/usr/bin/env bash
# Train the embedded model `lite` from scratch, and print the tables of docs/lite.md.
#
#     examples/train_lite.sh VOC OUT MORE
#
# VOC holds JPEGImages, SegmentationClassAug, labels.csv, classes.txt and lists/{train,train_aug,val}.txt.
# MORE holds further photos: JPEGImages, labels.csv and lists/train_more.txt. Steps 1 to 4 use VOC alone.
# Needs: pip install '.[docs]'. Run the script again to continue a stopped run; finished steps are skipped.
set -euo pipefail
voc=$1 out=$2 more=$3
here=$(dirname "${BASH_SOURCE[0]}")
photos=$voc/JPEGImages
labels=(--labels "$voc/labels.csv" --classes "$voc/classes.txt")
list=(--list "$voc/lists/train_aug.txt")
mkdir -p "$out"

# 1. A classifier on ImageNet features, from image-level labels.
[ -f "$out/imagenet.safetensors" ] || python "$here/imagenet_start.py" "$out/imagenet.safetensors"
pixaff train-cam "$photos" "${labels[@]}" "${list[@]}" --out "$out/image-level" --resume \
    --init "$out/imagenet.safetensors" --resize 320:448 --crop 352 --epochs 8 --lr 1e-3 --seed 0

# 2. Its CAMs, refined with much and with little background: what the segmentation head learns from.
pixaff cam "$photos" "${labels[@]}" "${list[@]}" --model "$out/image-level" --scales 1 --no-flip --out "$out/cams1"
pixaff crf "$photos" --cams "$out/cams1" "${list[@]}" --crf-low 8 --crf-high 16 --out "$out/crf1"
pixaff train-cam "$photos" "${labels[@]}" "${list[@]}" --crf-low-dir "$out/crf1/low" --crf-high-dir "$out/crf1/high" \
    --out "$out/model" --resume --init "$out/image-level/cam.safetensors" --resize 512:512 --crop 384 --epochs 2 --seed 0

# 3. The CAMs of the segmentation head, refined: what the AffinityNet learns from.
pixaff cam "$photos" "${labels[@]}" "${list[@]}" --model "$out/model" --scales 0.5,1 --out "$out/cams2"
pixaff crf "$photos" --cams "$out/cams2" "${list[@]}" --crf-low 0.5 --crf-high 3 --out "$out/crf2"
pixaff train-affinity "$photos" "${list[@]}" --crf-low-dir "$out/crf2/low" --crf-high-dir "$out/crf2/high" \
    --out "$out/affinity" --resume --init "$out/model/cam.safetensors" \
    --crop 320 --epochs 3 --batch-size 8 --precision fp32 --seed 0

# 4. A second segmentation head on those posteriors: its CAMs make better labels, on which the AffinityNet trains further.
pixaff train-cam "$photos" "${labels[@]}" "${list[@]}" --crf-low-dir "$out/crf2/low" --crf-high-dir "$out/crf2/high" \
    --out "$out/model2" --resume --init "$out/image-level/cam.safetensors" --resize 512:512 --crop 384 --epochs 2 --seed 0
pixaff cam "$photos" "${labels[@]}" "${list[@]}" --model "$out/model2" --scales 0.5,1 --out "$out/cams3"
pixaff crf "$photos" --cams "$out/cams3" "${list[@]}" --crf-low 0.5 --crf-high 3 --out "$out/crf3"
pixaff train-affinity "$photos" "${list[@]}" --crf-low-dir "$out/crf3/low" --crf-high-dir "$out/crf3/high" \
    --out "$out/affinity2" --resume --init "$out/affinity/affinity.safetensors" \
    --crop 320 --epochs 2 --batch-size 8 --precision fp32 --seed 0
cp "$out/affinity2/affinity.safetensors" "$out/model/"

# 5. The second edition, from all photos. First, the first edition as it was shipped:
[ -f "$out/first/model.json" ] || python - "$out/model" "$out/first" <<'PYTHON'
import sys

from pixaff.models.bundle import load_model, write_bundle
from pixaff.models.registry import PRESETS

first = PRESETS["lite"].replace(alpha=1.25, label_threshold=0.35)
model = load_model(sys.argv[1])
write_bundle(sys.argv[2], "lite_cam", "lite_affinity", model.cam, model.affinity, model.classes, first, half=True)
PYTHON

# ... what its frozen part sees of all photos, kept once;
all=("$voc" "$more" --list "$voc/lists/train_aug.txt" --list "$more/lists/train_more.txt")
view() { [ -f "$out/$1.json" ] || python "$here/lite_views.py" "$out/$1.bin" "${all[@]}" --model "$out/first" "${@:2}"; }
view s1 --scale 1
view s5 --scale 0.5
view s5f --scale 0.5 --mirror

# ... new classifier weights on the mean features;
[ -f "$out/classifier.safetensors" ] || python "$here/train_lite_classifier.py" \
    "$out/first/cam.safetensors" "$out/classifier.safetensors" "${all[@]}" --score-list "$voc/lists/train.txt"

# ... its walked CAMs, of at most 200 photos with the same rarest class;
[ -f "$out/walked.pt" ] || python "$here/lite_walked_cells.py" "$out/walked.pt" "${all[@]}" \
    --views "$out" --model "$out/first"

# ... from which, and from the image-level labels, the last two stages and both heads learn. The 166 photos on
# which the hyper-parameters are chosen are left out.
[ -f "$out/second/model.json" ] || python "$here/train_lite_stages.py" "$out/second" "$voc" "$more" \
    --cells "$out/walked.pt" --views "$out" --model "$out/first" --cam-weights "$out/classifier.safetensors" \
    --without "$voc/lists/train.txt" --epochs 3 --seed 0

# 6. The hyper-parameters of the walk, on these 166 photos.
pixaff cam "$photos" "${labels[@]}" "${list[@]}" --model "$out/second" --out "$out/cams4"
python "$here/tune_walk.py" "$photos" "$out/cams4" "$voc/SegmentationClassAug" "$voc/lists/train.txt" \
    --model "$out/second" --every 4 --borders full

# 7. The model as it is shipped: matrices in half precision, the settings of the preset.
python - "$out/second" "$out/lite" <<'PYTHON'
import sys

from pixaff.models.bundle import load_model, write_bundle
from pixaff.models.registry import PRESETS

model = load_model(sys.argv[1])
write_bundle(sys.argv[2], "lite_cam", "lite_affinity", model.cam, model.affinity, model.classes, PRESETS["lite"], half=True)
PYTHON

# 8. The tables.
"$here/evaluate_lite.sh" "$voc" "$out/lite" "$out"
