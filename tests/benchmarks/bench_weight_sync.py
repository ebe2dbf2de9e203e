"""Weight sync beside a bare copy of the same bytes: from the store to 1, 2 and 4 processes.

    python -m tests.benchmarks.bench_weight_sync --repeats 5 --folder /dev/shm

Sync is WeightStore.publish here, then in every process at once a fetch and a copy into parameters
that it holds already. The bare copy is shutil.copyfile of the published file here, then in every
process at once a read of the copy into memory that it holds already. The two take turns. Only sync
checks bytes; what its checksums cost, one at publishing and one in every process, is timed apart.
MB/s counts the bytes that reached all processes, over sync's whole time. The weights are random, of
the shapes of SmolLM2-135M or of --model. A folder on a disk (the default is the one for temporary
files) also measures that disk, wherever the machine's memory does not hold what is written.
"""

import argparse
import math
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import LlamaConfig

from actors.messages import Canary
from actors.model_files import parameter_shapes
from actors.weights.checksums import checksum_of
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion

NUM_WORKERS = (1, 2, 4)


class Seconds(NamedTuple):
    """One repeat."""

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


def smollm2_135m():
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )


def serve(pipe, folder, shapes, dtype):
    """Do what comes through the pipe, and answer when it is done."""
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
    """Processes that hold weights of their own."""

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
        """Have so many of them do this at once."""
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


def repeat(number, count, folder, tensors, workers):
    """Sync once and copy once; which comes first changes from repeat to repeat."""
    store, copied = WeightStore(folder, keep=1), folder / "copied"
    found = {}

    def sync():
        publish = (PolicyVersion(0, number), tensors, Canary((0,), ()))
        found["publish"], published = timed(store.publish, *publish)
        found["load"], _ = timed(workers.do, count, "load", published)

    def newest():
        return max(folder.glob("*.safetensors"))

    def bare(path):
        copied.unlink(missing_ok=True)
        found["copy"], _ = timed(shutil.copyfile, path, copied)
        found["read"], _ = timed(workers.do, count, "read", copied)

    if number % 2:
        bare(newest())
    sync()
    path = newest()
    if not number % 2:
        bare(path)
    here_s, _ = timed(checksum_of, path)
    there_s, _ = timed(workers.do, count, "checksum", path)
    return Seconds(**found, checksum=here_s + there_s)


def report(dtype, count, size, repeats):
    middle = Seconds(*(statistics.median(column) for column in zip(*repeats, strict=True)))
    rate = count * size / statistics.median(r.sync for r in repeats) / 1e6
    ratios = [r.sync / r.bare for r in repeats]
    seconds = " ".join(f"{value:8.3f}" for value in middle)
    ratio = f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{dtype:9} {count:7} {seconds} {rate:7.0f}  {ratio}", flush=True)


def arguments_given():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder in Hugging Face format; only its config is read")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="in which a temporary one is made")
    parser.add_argument(
        "--dtypes", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"]
    )
    return parser.parse_args()


def main():
    options = arguments_given()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        smollm2_135m().save_pretrained(folder)
        shapes = parameter_shapes(options.model or folder)
        print(f"{sum(map(math.prod, shapes.values()))} parameters; medians in seconds:")
        print("dtype     workers  publish     load     copy     read checksum    MB/s  sync / bare")
        for dtype in options.dtypes:
            kind = getattr(torch, dtype)
            tensors = {name: torch.randn(shape).to(kind) for name, shape in shapes.items()}
            size = sum(tensor.nbytes for tensor in tensors.values())
            store = Path(folder) / dtype
            workers = WorkerProcesses(max(NUM_WORKERS), store, shapes, kind)
            number = 0
            for count in NUM_WORKERS:
                repeats = []
                for _ in range(options.repeats + 1):
                    repeats.append(repeat(number, count, store, tensors, workers))
                    number += 1
                report(dtype, count, size, repeats[1:])  # the first is a warm-up
            workers.end()


if __name__ == "__main__":
    main()
