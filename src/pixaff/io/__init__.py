"""Files in and out: photos, masks, labels, CAMs, checkpoints; every write is atomic, no read runs code."""
