"""PyTorch's side of the exchange: all-reduces of an fp32 vector over gloo between processes of this machine.

Before each the processes meet in a barrier, which is not timed.
"""

import argparse

import paced
import torch
import torch.distributed


def member(rank, count, port, args):
    torch.set_num_threads(1)
    paced.join_gloo(rank, count, port)
    vector = torch.ones(args.megabytes * 1_000_000 // 4)

    def round():
        vector.fill_(1)
        torch.distributed.barrier()
        figures = paced.timed(lambda: torch.distributed.all_reduce(vector))
        assert vector[0] == count and vector[-1] == count
        return figures

    for _ in range(3):
        round()
    return round


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=25)
    args = parser.parse_args()
    paced.together(args.workers, member, args)


if __name__ == "__main__":
    main()
