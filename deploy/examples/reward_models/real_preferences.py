"""Train reward models on real preferences and compare them with a length baseline.

    python -m deploy.examples.reward_models.real_preferences --model FOLDER \
        --pairs harmless=pairs.jsonl --solutions solutions.jsonl --out real_preferences

For each data set, a head is trained on the frozen backbone as by irlign reward-model train, on Ray.
Its run directory, with its report, and a Markdown table of all data sets are written to --out.
--pairs takes any comparisons that irlign reads. --solutions takes rows with a question and the
solutions of several models, each with is_correct: a correct solution is preferred to an incorrect
one, and the domain is the pair of models. Rows in which the prompt and a response have more tokens
than --max-tokens are left out.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from alignment.data.chat_template import conversation_tokens
from alignment.data.comparisons import Comparison, read_comparisons
from alignment.models.scalar_head import HEAD_RATE_FACTOR
from alignment.report.formats import format_interval
from alignment.report.reward_model.metrics import calibration, evaluation_pairs
from alignment.rewards.evaluation import METRICS
from cluster.config.reward_model import reward_model_job
from cluster.config.run_config import RunConfig
from cluster.jobs.reward_model import train_reward_model

HEAD_RATE = 1e-3
"""Peak learning rate of the head; the backbone is frozen."""
COMPARISONS_PER_STEP = 32
HELD_OUT_FRACTION = 0.25
PAIRS_PER_QUESTION = 2
HEADS = (
    "data",
    "left out",
    "evaluation pairs",
    "accuracy",
    "length baseline",
    "ECE (expected of true probabilities)",
)


def solution_pairs(path: Path, seed: int = 0) -> list[Comparison]:
    """Pair correct with incorrect solutions of a question, at most two pairs per question."""
    rng, rows = random.Random(seed), []
    for line in path.read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        models = [name for name, each in given.items() if isinstance(each, dict)]
        correct = [name for name in models if given[name]["is_correct"]]
        incorrect = [name for name in models if not given[name]["is_correct"]]
        pairs = list(product(correct, incorrect))
        for pair in rng.sample(pairs, min(PAIRS_PER_QUESTION, len(pairs))):
            responses = tuple(given[name]["solution"] for name in pair)
            domain = " / ".join(sorted(pair, key=models.index))
            rows.append(Comparison(given["question"], responses, (0, 1), domain=domain))
    return rows


def write_short(
    rows: Sequence[Comparison], tokenizer: PreTrainedTokenizerBase, max_tokens: int, path: Path
) -> tuple[int, tuple[int, int]]:
    """Write the rows of at most max_tokens.

    Returns:
        Their number, and the tokens of the longest prompt and of the longest response.
    """
    tokens = iter(conversation_tokens(tokenizer, rows, None))
    longest, lines = (0, 0), []
    for row in rows:
        pairs = [next(tokens) for _ in row.responses]
        sizes = len(pairs[0].prompt), max(len(pair.response) for pair in pairs)
        if sum(sizes) > max_tokens:
            continue
        longest = max(longest[0], sizes[0]), max(longest[1], sizes[1])
        turns = [{"role": turn.role, "content": turn.text} for turn in row.history]
        prompt = [*turns, {"role": "user", "content": row.prompt}]
        line = {"prompt": prompt, "responses": row.responses, "ranks": row.ranks}
        lines.append(line | ({"domain": row.domain} if row.domain else {}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return len(lines), longest


def make_job(
    arguments: argparse.Namespace, name: str, path: Path, limits: tuple[int, int]
) -> RunConfig:
    """Return the job of a data set: a frozen backbone and a trained head."""
    prompt, response = limits
    return RunConfig.model_validate(
        {
            "name": name,
            "model": {"name": str(arguments.model.resolve())},  # ranks run in folders of their own
            "data": {
                "held_out_fraction": HELD_OUT_FRACTION,
                "max_prompt_tokens": prompt,
                "max_response_tokens": response,
            },
            "sft": {"steps": 0},
            "objective": {"steps": 0},
            "preferences": {"path": str(path)},
            "discriminator": {
                "tuning": "frozen",
                "num_layers": arguments.num_layers,
                "learning_rate": HEAD_RATE / HEAD_RATE_FACTOR,
            },
            "learner": {
                "autocast": "float32",
                "cpus_per_rank": arguments.cpus,
                "max_tokens_per_microbatch": 4 * arguments.max_tokens,
            },
        }
    )


def train_on(
    arguments: argparse.Namespace, name: str, rows: Sequence[Comparison], console: Console
) -> tuple[str, ...]:
    """Train on a data set and return its row of the table."""
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    path = folder.resolve() / "pairs.jsonl"
    num_kept, limits = write_short(rows, tokenizer, arguments.max_tokens, path)
    left_out = f"{len(rows) - num_kept} of {len(rows)}"
    limit = f"they have more than {arguments.max_tokens} tokens"
    console.print(f"{name}: {left_out} rows are left out, as {limit}")
    if not num_kept:
        sys.exit(
            f"every row of {name} has more than {arguments.max_tokens} tokens; raise --max-tokens"
        )
    config = reward_model_job(
        make_job(arguments, name, path, limits),
        num_epochs=arguments.epochs,
        comparisons_per_step=COMPARISONS_PER_STEP,
    )
    run_dir = folder / "run"
    if not train_reward_model(config, run_dir, console):
        sys.exit("stopped; repeat the same command to resume")
    evaluation = json.loads((run_dir / METRICS).read_text())
    length, result = evaluation["length_baseline"], calibration(evaluation_pairs(evaluation))
    return (
        name,
        left_out,
        str(evaluation["accuracy"]["num_rows"]),
        format_interval(evaluation["accuracy"]),
        f"{format_interval(length)}, {length['prefers']}",
        f"{result.error:.3f} ({result.expected_error:.3f})",
    )


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Format the table in Markdown."""
    lines = [HEADS, ["---"] * len(HEADS), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(given: Sequence[str] | None = None) -> None:
    """Train on each data set, print the table and write it to table.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a language model")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--solutions", type=Path)
    parser.add_argument("--out", type=Path, default=Path("real_preferences"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--num-layers", type=int, help="layers of the backbone; default: all")
    parser.add_argument("--cpus", type=int, default=1)
    arguments = parser.parse_args(given)
    sets = {
        name: read_comparisons(Path(path))
        for name, _, path in (pair.partition("=") for pair in arguments.pairs)
    }
    if arguments.solutions:
        sets["solutions"] = solution_pairs(arguments.solutions)
    if not sets:
        parser.error("give --pairs or --solutions")
    console = Console(highlight=False)
    rows = [train_on(arguments, name, each, console) for name, each in sets.items()]
    table = Table(*HEADS, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    path = arguments.out / "table.md"
    path.write_text(markdown_table(rows), encoding="utf-8")
    console.print(f"Table: {path}")


if __name__ == "__main__":
    main()
