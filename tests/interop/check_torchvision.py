"""Loads a checkpoint's model.safetensors into torchvision's model of the same depth and compares logits.

    python check_torchvision.py ARCH MODEL.safetensors IMAGES.f32 LOGITS.f32 CxHxW CLASSES

IMAGES.f32 holds normalised images [N, C, H, W], LOGITS.f32 the worker's logits [N, classes], both as
little-endian fp32. Needs `pip install torch torchvision safetensors numpy`. `cargo test -p worker --test
trained` runs it when the variable INTEROP_PYTHON names such a Python.

The file has no `num_batches_tracked`: BatchNorm fills it in while it loads state that carries no version of
its own, which a safetensors file never does, so `strict=True` accepts the file as it is.
"""

import sys

import numpy as np
import torch
import torchvision
from safetensors.torch import load_file

TOLERANCE = 1e-4


def main() -> None:
    arch, model_path, images_path, logits_path, shape, classes = sys.argv[1:]
    shape, classes = [int(side) for side in shape.split("x")], int(classes)
    model = torchvision.models.get_model(arch, num_classes=classes)
    print(model.load_state_dict(load_file(model_path), strict=True))
    model.eval()
    images = torch.from_numpy(np.fromfile(images_path, "<f4").reshape(-1, *shape))
    expected = torch.from_numpy(np.fromfile(logits_path, "<f4").reshape(-1, classes))
    assert len(images) == len(expected) > 1, (len(images), len(expected))
    with torch.inference_mode():
        difference = (model(images) - expected).abs().max().item()
    largest = expected.abs().max().item()
    print(f"torchvision {arch}, {len(images)} images: logits up to {largest:.1f}, largest difference {difference:.1e}")
    assert difference <= TOLERANCE, f"more than {TOLERANCE}"


if __name__ == "__main__":
    main()
