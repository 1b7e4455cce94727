"""PyTorch's images/s of ResNet training steps on one GPU, as JSON: bf16 autocast, channels_last, eager and compiled.

The step is that of `worker bench`: forward, cross-entropy, backward, SGD with Nesterov momentum; no dataset. Also the rates of a
copy on the device and of a large bf16 matrix product, which shares of the peak refer to.
"""

import json
import statistics
import sys
import time

import torch
import torchvision


def main() -> None:
    torch.backends.cudnn.benchmark = True
    found = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "gpu": torch.cuda.get_device_name()}
    found["copy_bytes_per_s"] = copy_rate()
    found["matmul_flops"] = matmul_rate()
    found["steps"] = []
    for arch, side, batch in [("resnet50", 224, 256), ("resnet50", 224, 128), ("resnet50", 224, 512), ("resnet18", 32, 512)]:
        for compiled in (False, True):
            case = {"arch": arch, "side": side, "batch": batch, "compiled": compiled}
            try:
                case["images_per_s"] = images_per_second(arch, side, batch, compiled)
            except Exception as error:  # the rest is still worth having
                case["error"] = str(error)[:300]
            print(case, file=sys.stderr, flush=True)
            found["steps"].append(case)
    json.dump(found, sys.stdout)


def images_per_second(arch: str, side: int, batch: int, compiled: bool) -> float:
    classes = 1000 if side > 64 else 10
    model = torchvision.models.get_model(arch, num_classes=classes)
    if side <= 64:
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    model = model.cuda().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    images = torch.randn(batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), device="cuda")
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return batch / seconds_of(step, warm_up=8, rounds=20)


def copy_rate() -> float:
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    into = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: into.copy_(source))


def matmul_rate() -> float:
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b)


def seconds_of(act, warm_up: int = 3, rounds: int = 10) -> float:
    """The median of single runs, each waited for."""
    for _ in range(warm_up):
        act()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        since = time.perf_counter()
        act()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - since)
    return statistics.median(times)


if __name__ == "__main__":
    main()
