#!/usr/bin/env bash
# All that a GPU computes, against the CPU's results and against the published walk on the same GPU: `benchmarks/cuda.py`
# from the checkout, without an installation. Needs torch, torchvision, timm, typer, rich, numpy, pillow, safetensors,
# filelock, requests, matplotlib and pytest; no network. Ends within four minutes, or after --budget SECONDS.
#
#   benchmarks/cuda.sh [PHOTOS] [--out FILE.json] [--images N] [--parts NAME ...] [--budget SECONDS]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD/src:$PWD" PYTHONUNBUFFERED=1 PIXAFF_OFFLINE=1
command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
exec "${PYTHON:-python3}" -m benchmarks.cuda "$@"
