"""One round for each line of standard input, as `worker bench --paced` does it: "ready", then for each round its wall and
processor seconds and the peak of memory in bytes. Alone or in several processes, which are measured together.
"""

import resource
import socket
import sys
import time


def timed(step):
    """Wall and processor seconds of `step()` and the peak memory of this process in bytes."""
    since, busy = time.perf_counter(), time.process_time()
    step()
    wall, busy = time.perf_counter() - since, time.process_time() - busy
    return wall, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(round):
    """Answers each line of standard input with what `round()` gives."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print("%.6f %.6f %d" % round(), flush=True)


def together(count, member, arguments):
    """Has `count` processes do rounds together. `member(rank, count, port, arguments)` makes the function that does one
    round in its process and gives its figures. A round takes as long as the slowest process.
    """
    import torch.multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, member, rank, count, port, arguments), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()

    def round():
        for pipe in pipes:
            pipe.send(None)
        figures = [pipe.recv() for pipe in pipes]
        return max(f[0] for f in figures), sum(f[1] for f in figures), sum(f[2] for f in figures)

    answer(round)


def serve(pipe, member, rank, count, port, arguments):
    round = member(rank, count, port, arguments)
    pipe.send("ready")
    try:
        while True:
            pipe.recv()
            pipe.send(round())
    except EOFError:
        pass


def join_gloo(rank, count, port):
    """Makes this process a member of a gloo group on loopback."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
