"""PyTorch's side of training steps: a torchvision ResNet, eager, fp32, channels_last.

One step is forward, cross-entropy, backward, SGD with momentum. With --workers, processes share the batch as
DistributedDataParallel over gloo has it. `cargo xtask bench` drives it in turn with `worker bench --paced`.
"""

import argparse

import paced
import torch
import torchvision


def trainer(args, batch, wrap=lambda model: model):
    """The function that does one step."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    model = getattr(torchvision.models, args.model)(num_classes=args.classes)
    channels, height, width = map(int, args.input.split("x"))
    if args.stem == "cifar":
        model.conv1 = torch.nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    model = wrap(model.to(memory_format=layout).train())
    x = torch.randn(batch, channels, height, width).to(memory_format=layout)
    labels = torch.randint(args.classes, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    for _ in range(2):
        step()
    return lambda: paced.timed(step)


def member(rank, count, port, args):
    paced.join_gloo(rank, count, port)
    return trainer(args, args.batch // count, torch.nn.parallel.DistributedDataParallel)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--stem", choices=["cifar", "imagenet"], default="cifar")
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--batch", type=int, default=128, help="of all workers together")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--contiguous", action="store_true", help="NCHW instead of channels_last")
    args = parser.parse_args()
    if args.workers > 1:
        paced.together(args.workers, member, args)
    else:
        paced.answer(trainer(args, args.batch))


if __name__ == "__main__":
    main()
