"""PyTorch's side of the comparison: training steps of a torchvision ResNet, eager, fp32, channels_last.

One step (forward, cross-entropy, backward, SGD with momentum) for each line of standard input; prints "ready", then
the wall and the processor seconds of each step. `cargo xtask bench` drives it in turn with `worker bench --paced`.
"""

import argparse
import sys
import time

import torch
import torchvision


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--stem", choices=["cifar", "imagenet"], default="cifar")
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contiguous", action="store_true", help="NCHW instead of channels_last")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    model = getattr(torchvision.models, args.model)(num_classes=args.classes)
    channels, height, width = map(int, args.input.split("x"))
    if args.stem == "cifar":
        model.conv1 = torch.nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    model = model.to(memory_format=layout).train()
    x = torch.randn(args.batch, channels, height, width).to(memory_format=layout)
    labels = torch.randint(args.classes, (args.batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step():
        since, busy = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        loss.item()
        return time.perf_counter() - since, time.process_time() - busy

    for _ in range(2):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        print("%.6f %.6f" % step(), flush=True)


if __name__ == "__main__":
    main()
