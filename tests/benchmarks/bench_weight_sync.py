"""Time of weight sync to 1, 2 and 4 processes, relative to a bare copy of the same bytes.

    python -m tests.benchmarks.bench_weight_sync --repeats 5 --folder /dev/shm

Sync is WeightStore.publish in this process, then, in all processes at once, a fetch and a copy into
allocated parameters. The bare copy is shutil.copyfile of the published file in this process, then,
in all processes at once, a read of the copy into allocated memory. The two alternate. Only sync
verifies checksums, one at publishing and one in every process, whose time is also measured alone.
MB/s is the number of bytes that reach all processes over the time of sync. The weights are random,
with the shapes of SmolLM2-135M or of --model. A folder on a disk (by default, that for temporary
files) also measures the disk, unless the page cache holds the file.
"""

import math
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from actors.messages import Canary
from actors.model_files import parameter_shapes
from actors.weights.checksums import checksum_of
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion
from tests.benchmarks.command_line import SMOLLM2_135M, make_parser

NUM_WORKERS = (1, 2, 4)


class SyncSeconds(NamedTuple):
    """The times of one repeat."""

    publish: float
    load: float
    copy: float
    read: float
    checksum: float

    @property
    def sync(self):
        return self.publish + self.load

    @property
    def bare(self):
        return self.copy + self.read


def serve(pipe, folder, shapes, dtype):
    """Execute the tasks from the pipe and confirm each."""
    torch.set_num_threads(1)
    store = WeightStore(folder)
    parameters = {name: torch.ones(shape, dtype=dtype) for name, shape in shapes.items()}
    memory = bytearray(sum(p.nbytes for p in parameters.values()) + 2**20)  # and a header

    def load(published):
        for name, tensor in store.fetch(published).items():
            parameters[name].copy_(tensor)

    def read(path):
        with path.open("rb", buffering=0) as file:
            left = memoryview(memory)
            while count := file.readinto(left):
                left = left[count:]

    tasks = {"load": load, "read": read, "checksum": checksum_of}
    pipe.send("ready")
    while order := pipe.recv():
        kind, argument = order
        tasks[kind](argument)
        pipe.send("done")


class WorkerProcesses:
    """Processes with their own parameters."""

    def __init__(self, size, *arguments):
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(size):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, *arguments), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def do(self, count, *order):
        """Have the first `count` processes execute a task at once."""
        for pipe in self._pipes[:count]:
            pipe.send(order)
        for pipe in self._pipes[:count]:
            pipe.recv()

    def end(self):
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def timed(function, *arguments):
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def repeat(number, count, folder, tensors, processes):
    """Sync once and copy once, in alternating order."""
    store, copied = WeightStore(folder, keep=1), folder / "copied"
    seconds = {}

    def sync():
        publish = (PolicyVersion(0, number), tensors, Canary((0,), ()))
        seconds["publish"], published = timed(store.publish, *publish)
        seconds["load"], _ = timed(processes.do, count, "load", published)

    def newest():
        return max(folder.glob("*.safetensors"))

    def bare(path):
        copied.unlink(missing_ok=True)
        seconds["copy"], _ = timed(shutil.copyfile, path, copied)
        seconds["read"], _ = timed(processes.do, count, "read", copied)

    if number % 2:
        bare(newest())
    sync()
    path = newest()
    if not number % 2:
        bare(path)
    here_s, _ = timed(checksum_of, path)
    there_s, _ = timed(processes.do, count, "checksum", path)
    return SyncSeconds(**seconds, checksum=here_s + there_s)


def report(dtype, count, size, repeats):
    middle = SyncSeconds(*(statistics.median(column) for column in zip(*repeats, strict=True)))
    rate = count * size / statistics.median(r.sync for r in repeats) / 1e6
    ratios = [r.sync / r.bare for r in repeats]
    columns = " ".join(f"{value:8.3f}" for value in middle)
    ratio = f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{dtype:9} {count:7} {columns} {rate:7.0f}  {ratio}", flush=True)


def parse_arguments():
    parser = make_parser(__doc__)
    parser.add_argument("--model", help="folder in Hugging Face format; only its config is read")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument(
        "--dtypes", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"]
    )
    return parser.parse_args()


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        SMOLLM2_135M.save_pretrained(folder)
        shapes = parameter_shapes(options.model or folder)
        print(f"{sum(map(math.prod, shapes.values()))} parameters; medians in seconds:")
        print("dtype     workers  publish     load     copy     read checksum    MB/s  sync / bare")
        for dtype in options.dtypes:
            kind = getattr(torch, dtype)
            tensors = {name: torch.randn(shape).to(kind) for name, shape in shapes.items()}
            size = sum(tensor.nbytes for tensor in tensors.values())
            store = Path(folder) / dtype
            processes = WorkerProcesses(max(NUM_WORKERS), store, shapes, kind)
            number = 0
            for count in NUM_WORKERS:
                repeats = []
                for _ in range(options.repeats + 1):
                    repeats.append(repeat(number, count, store, tensors, processes))
                    number += 1
                report(dtype, count, size, repeats[1:])  # the first is a warm-up
            processes.end()


if __name__ == "__main__":
    main()
