"""What the commands share: inputs, image labels, the run over a batch of images, executors and the run record."""
