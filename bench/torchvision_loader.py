"""torchvision's side of the loader: JPEG files to batches of random crops of 224 pixels, flipped at random, normalised.

A DataLoader with processes, torchvision's tensor backend (decode_jpeg, transforms v2 on uint8). Batches are scaled and
normalised, in place, by the process that trains: of the forms tried it is the fastest, as processes send each other
bytes instead of floats. One round reads --images images, in random order, again and again if the folder has fewer.
"""

import argparse
import os
import pathlib
import time

import paced
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2


# ImageNet's, as the worker takes for image folders.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(Dataset):
    def __init__(self, folder):
        self.files = sorted(str(file) for file in pathlib.Path(folder, "train").glob("*/*.jpg"))
        self.prepare = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.prepare(decode_jpeg(read_file(self.files[index]), mode=ImageReadMode.RGB))


def of_process(pid):
    """Processor seconds and peak memory in bytes of a running process."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(peak) * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="worker processes")
    args = parser.parse_args()
    photos = Photos(args.data)
    sampler = RandomSampler(photos, replacement=True, num_samples=args.images)
    loader = DataLoader(photos, args.batch, sampler=sampler, num_workers=args.threads, persistent_workers=True)

    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD, inplace=True)])

    def busy():
        pids = [os.getpid()] + [worker.pid for worker in loader._iterator._workers]
        figures = [of_process(pid) for pid in pids]
        return sum(f[0] for f in figures), sum(f[1] for f in figures)

    def round():
        before, since = busy()[0], time.perf_counter()
        images = sum(len(normalise(batch)) for batch in loader)
        wall = time.perf_counter() - since
        assert images == args.images
        after, peak = busy()
        return wall, after - before, peak

    torch.set_num_threads(1)
    for batch in loader:  # starts the processes
        normalise(batch)
    paced.answer(round)


if __name__ == "__main__":
    main()
