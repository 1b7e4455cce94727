"""Writes what torchvision's model saves of itself, and the logits that it gives, for the worker to start from.

    python make_torchvision.py ARCH WEIGHTS.safetensors IMAGES.u8 LOGITS.f32 N SIDE

WEIGHTS.safetensors is the whole `state_dict()`, `num_batches_tracked` included, of a model whose BatchNorm has learned
something. IMAGES.u8 holds made-up images [N, SIDE, SIDE, 3], LOGITS.f32 the logits [N, 1000] of (pixel / 255 - 0.5) / 0.25,
computed in fp64, little-endian fp32. Needs `pip install torch torchvision safetensors numpy`. `cargo test -p worker --test trained` runs it
when the variable INTEROP_PYTHON names such a Python.
"""

import sys

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file


def main() -> None:
    arch, weights_path, images_path, logits_path, count, side = sys.argv[1:]
    torch.manual_seed(3)
    model = torchvision.models.get_model(arch, weights=None)
    pixels = torch.randint(0, 256, (int(count), int(side), int(side), 3), dtype=torch.uint8)
    images = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        for _ in range(30):
            model(images)
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.weight.uniform_(0.3, 0.9)
            norm.bias.uniform_(-0.2, 0.2)
        single = model.eval()(images)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        logits = model.double()(images.double())
    assert "bn1.num_batches_tracked" in state
    save_file(state, weights_path)
    pixels.numpy().tofile(images_path)
    logits.numpy().astype("<f4").tofile(logits_path)
    largest, rounding = logits.abs().max().item(), (single - logits).abs().max().item()
    print(f"torchvision {torchvision.__version__} {arch}: logits up to {largest:.1f}, in fp32 off by {rounding:.1e}")


if __name__ == "__main__":
    main()
