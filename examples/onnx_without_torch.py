"""Mask of a photo from an exported segmentation network, with ONNX Runtime, NumPy and Pillow alone.

pixaff export-onnx run/ model.onnx
python examples/onnx_without_torch.py model.onnx photo.jpg mask.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
scale = int(facts["size"]) / max(image.size) if int(facts["size"]) else 1.0
small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
pixels = (np.asarray(small, np.float32) / 255 - json.loads(facts["mean"])) / json.loads(facts["std"])
(logits,) = session.run(["logits"], {"image": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
mask = Image.fromarray(logits[0].argmax(0).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
mask.save(out)
for value in np.unique(mask):
    print(["background", *json.loads(facts["classes"])][value])
