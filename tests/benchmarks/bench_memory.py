"""Peak memory of a learner rank by phase, against what `irlign check` expects.

    python -m tests.benchmarks.bench_memory --model FOLDER --max-tokens 1024
    python -m tests.benchmarks.bench_memory --tiny

One rank on the CPU: SFT, on-policy steps with a reference, publication and checkpoint, then a
second process that resumes from it. Peaks are of resident memory, as the kernel counts it.

With one microbatch a step (--prompts 5 --repeats 1) SmolLM2-135M takes 4.3 GiB where 4.6 are
expected. Several microbatches a step take more than expected: activations of a model of 32 million
parameters take twice their expected size then. A likely cause is that their blocks have other sizes
and the C allocator keeps freed ones.
"""

import argparse
import multiprocessing
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

from actors.config.learner import LearnerConfig
from cluster.resources.memory import GIB, learner_memory
from cluster.resources.model_files import shape_of_files
from tests.benchmarks.command_line import add_model_options, make_parser, model_folder
from tests.fakes.tiny_job import save_tiny_tokenizer


def show(phase):
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    resident = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    print(f"{phase:28} {int(resident) * 1024 / GIB:8.2f} {peak_gib:8.2f}", flush=True)


def run(options, folder, checkpoint):
    """Be a learner rank, from the model or from a checkpoint."""
    import torch  # noqa: PLC0415 - only this process is to hold it

    from actors.learner.learner import Learner  # noqa: PLC0415
    from actors.messages import OnPolicyStep, SftStep  # noqa: PLC0415
    from tests.benchmarks.bench_learner import learner_settings, make_task  # noqa: PLC0415

    torch.set_num_threads(options.threads)
    show("imports")
    settings = learner_settings(options, folder / "weights")
    learner = Learner(settings, device=torch.device("cpu"), rank=0, world_size=1)
    show("model loaded")
    if checkpoint:
        learner.restore(checkpoint)
        show("checkpoint restored")
    vocabulary = learner.policy.model.config.vocab_size
    group_sizes = {SftStep: 1, OnPolicyStep: options.group_size}
    for kind, size in group_sizes.items():
        shape = argparse.Namespace(**{**vars(options), "group_size": size})
        for _ in range(options.repeats):
            learner.perform(replace(make_task(shape, learner.step, vocabulary), step=learner.step))
        show(f"{options.repeats} of {kind.__name__}")
    learner.publish(0)
    show("published")
    learner.save(folder / "checkpoint-of-resumed" if checkpoint else folder / "checkpoint")
    show("checkpoint written")


def main():
    parser = make_parser(__doc__)
    add_model_options(parser)
    for name, default in {
        "prompts": 12,
        "group-size": 4,
        "prompt-tokens": 55,
        "response-tokens": 32,
        "max-tokens": 1024,
        "repeats": 3,
        "threads": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.set_defaults(reference=0.02)
    with tempfile.TemporaryDirectory() as scratch:
        options = parser.parse_args()
        options.model = model_folder(parser, options, scratch)
        if options.tiny:
            save_tiny_tokenizer(options.model)
        config = LearnerConfig(max_tokens_per_microbatch=options.max_tokens)
        shape = shape_of_files(options.model)
        expected = learner_memory(config, shape, 1, "cpu", num_copies=1)
        parts = ", ".join(f"{name} {gib:.2f}" for name, gib in expected.parts_gib.items())
        print(f"expected {expected.gib:.2f} GiB: {parts}")
        spawn = multiprocessing.get_context("spawn")
        for title, checkpoint in (("first", None), ("resumed", Path(scratch) / "checkpoint")):
            print(f"{title + ' process, GiB':28} {'resident':>8} {'peak':>8}", flush=True)
            process = spawn.Process(target=run, args=(options, Path(scratch), checkpoint))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
