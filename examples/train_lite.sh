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

from pixaff.models.bundle import load_model
from pixaff.models.model_folder import write_bundle
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
for seed in 0 1; do
    [ -f "$out/second-$seed/model.json" ] || python "$here/train_lite_stages.py" "$out/second-$seed" "$voc" "$more" \
        --cells "$out/walked.pt" --views "$out" --model "$out/first" --cam-weights "$out/classifier.safetensors" \
        --without "$voc/lists/train.txt" --epochs 3 --seed "$seed"
done

# ... twice, from the same weights in another order. The mean of their weights is better than either.
[ -f "$out/second/model.json" ] || python - "$out/second" "$out/second-0" "$out/second-1" <<'PYTHON'
import sys

from pixaff.models.bundle import load_model
from pixaff.models.model_folder import write_bundle

out, *seeds = sys.argv[1:]
models = [load_model(seed) for seed in seeds]
states = [model.cam.state_dict() for model in models]
mean = {name: sum(state[name] for state in states) / len(states) if value.is_floating_point() else value
        for name, value in states[0].items()}
models[0].cam.load_state_dict(mean)
write_bundle(out, "lite_cam", "lite_affinity", models[0].cam, models[0].affinity, models[0].classes, models[0].settings)
PYTHON

# 6. The hyper-parameters of the walk psa, on these 166 photos.
pixaff cam "$photos" "${labels[@]}" "${list[@]}" --model "$out/second" --out "$out/cams4"
python "$here/tune_walk.py" "$photos" "$out/cams4" "$voc/SegmentationClassAug" "$voc/lists/train.txt" \
    --model "$out/second" --every 4 --borders full

# 7. Boundaries and displacements, from the confident labels of at most 60 photos with the same rarest class, on the
# backbone of the CAM network. The 166 photos are left out here, too.
[ -f "$out/irn.txt" ] || python - "$voc" "$more" "$out" <<'PYTHON'
import csv
import random
import sys
from collections import Counter
from pathlib import Path

*sets, out = map(Path, sys.argv[1:])
held_out = set((sets[0] / "lists/train.txt").read_text().split()[::4])
labels = {}
for data, name in zip(sets, ("train_aug", "train_more")):
    listed = set((data / f"lists/{name}.txt").read_text().split()) - held_out
    with (data / "labels.csv").open() as file:
        labels |= {row["image"]: row["labels"].split(";") for row in csv.DictReader(file) if row["image"] in listed}
frequency = Counter(name for names in labels.values() for name in names)
images, taken, chosen = sorted(labels), Counter(), []
random.Random(0).shuffle(images)
for image in images:
    rarest = min(labels[image], key=frequency.__getitem__)
    if taken[rarest] < 60:
        taken[rarest] += 1
        chosen.append(image)
(out / "irn.txt").write_text("\n".join(chosen) + "\n")
with (out / "irn.csv").open("w") as file:
    file.writelines(["image,labels\n", *(f"{image},{';'.join(labels[image])}\n" for image in chosen)])
(out / "irn-photos").mkdir(exist_ok=True)
for image in chosen:
    photo = next(path for data in sets if (path := data / f"JPEGImages/{image}.jpg").exists())
    (out / f"irn-photos/{image}.jpg").symlink_to(photo.resolve())
PYTHON
pixaff cam "$out/irn-photos" --labels "$out/irn.csv" --model "$out/second" --scales 1 --out "$out/irn-cams"
pixaff crf "$out/irn-photos" --cams "$out/irn-cams" --hard --size 320 --out "$out/irn-labels"
heads=("$out/irn-photos" --labels-dir "$out/irn-labels" --network lite_irn --batch-size 8 --precision fp32 --resume)
pixaff train-irn "${heads[@]}" --out "$out/irn-a" --init "$out/second/cam.safetensors" --epochs 2 \
    --crop 256 --resize 240:400
pixaff train-irn "${heads[@]}" --out "$out/irn-b" --init "$out/irn-a/irn.safetensors" --epochs 3 --seed 1 \
    --crop 256 --resize 240:400
pixaff train-irn "${heads[@]}" --out "$out/irn-c" --init "$out/irn-b/irn.safetensors" --epochs 4 --seed 2 \
    --crop 320 --resize 300:560
pixaff train-irn "${heads[@]}" --out "$out/irn" --init "$out/irn-c/irn.safetensors" --epochs 3 --seed 3 \
    --crop 320 --resize 300:560

# 8. The model as it is shipped: matrices in half precision, the settings of the preset.
python - "$out/second" "$out/irn/irn.safetensors" "$out/lite" <<'PYTHON'
import sys

from pixaff.models import create_model, load_checkpoint
from pixaff.models.bundle import load_model
from pixaff.models.model_folder import write_bundle
from pixaff.models.registry import PRESETS

second, weights, out = sys.argv[1:]
model, irn = load_model(second), load_checkpoint(create_model("lite_irn"), weights)
write_bundle(out, "lite_cam", "lite_affinity", model.cam, model.affinity, model.classes, PRESETS["lite"], half=True,
             irn="lite_irn", irn_model=irn)
PYTHON

# ... and the hyper-parameters of its walk, on the 166 photos:
python "$here/tune_walk.py" "$photos" "$out/cams4" "$voc/SegmentationClassAug" "$voc/lists/train.txt" \
    --model "$out/lite" --every 4

# 9. The segmentation network, from the masks of all photos but the 166, with labels given.
[ -f "$out/all.csv" ] || python - "$voc" "$more" "$out" <<'PYTHON'
import csv
import sys
from pathlib import Path

*sets, out = map(Path, sys.argv[1:])
held_out = set((sets[0] / "lists/train.txt").read_text().split()[::4])
(out / "all-photos").mkdir(exist_ok=True)
rows = ["image,labels\n"]
for data, name in zip(sets, ("train_aug", "train_more")):
    listed = set((data / f"lists/{name}.txt").read_text().split()) - held_out
    with (data / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if row["image"] in listed:
                rows.append(f"{row['image']},{row['labels']}\n")
                link = out / f"all-photos/{row['image']}.jpg"
                link.unlink(missing_ok=True)
                link.symlink_to((data / f"JPEGImages/{row['image']}.jpg").resolve())
(out / "all.csv").write_text("".join(rows))
PYTHON
pixaff propagate "$out/all-photos" --labels "$out/all.csv" --model "$out/lite" --out "$out/all-masks"
pixaff train-seg "$out/all-photos" "$out/all-masks" --out "$out/seg" --network lite_seg \
    --init "$out/second/cam.safetensors" --epochs 10 --batch-size 16 --crop 320 --resize 288:512 --hold-out 0 --resume
python - "$out/lite" "$out/seg/seg.safetensors" <<'PYTHON'
import sys

from pixaff.models.segmentation import add_segmentation

add_segmentation(*sys.argv[1:], settings={"size": 384}, half=True)
PYTHON

# 10. The tables.
"$here/evaluate_lite.sh" "$voc" "$out/lite" "$out"
