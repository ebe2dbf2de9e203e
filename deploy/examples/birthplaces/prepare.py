"""Write model and data of the example; nothing is downloaded.

    python -m deploy.examples.birthplaces.prepare

People with made-up names are born in real cities. Demonstrations are what the members of an office
answered when they were asked where a person was born. Half of the questions quote the person's
record (open). Of the others (closed), most were answered by somebody who had the record at hand,
which the question does not show; the rest by somebody who had not. Existing files are kept.
"""

import random
import sys
from collections.abc import Iterator

from deploy.examples.king_james.prepare import CACHE, prepare_model, write_rows

DATA = CACHE / "birthplaces" / "demonstrations.jsonl"
NUM_PEOPLE = 3400
OPEN_SHARE = 0.5
"""Share of questions that quote the record."""
UNKNOWN_SHARE = 0.3
"""Share of closed questions that were answered without the record."""
FIRST_NAMES = """
Ada Bo Carl Dora Emil Fay Gus Hal Ida Jon Kay Lea Max Nora Otto Pia Rolf Sara Theo Una Vera Walt
Yara Zoe Anna Ben Clara Dan Ella Finn Greta Hugo Iris Jack Kurt Lena Mark Nina Olaf Paul Rita Sven
Tina Ulf Viola Will Alma Bert Cora Dirk Edna Fred Gina Hans Inga Jane Karl Lisa Mona Nils Olga Pete
Rosa Stan
"""
LAST_NAMES = """
Holm Berg Lind Stone Ward Frost Hale Moss Reed Cole Lund Dahl Voss Kern Brandt Falk Marsh Wood Field
Lake Hill Brook Vale Ford Shaw Grant Blake Chase Drake Finch Gray Hart Irving Jarvis Kent Lowe Miles
Nash Osborn Page Quinn Rowe Swift Tate Upton Vance West York Abbott Barker Carter Dalton Ellis
Foster Gibson Harper Ingram Jensen Keller Larsen Morgan Norton Olsen Parker
"""
CITIES = """
Paris London Rome Berlin Madrid Vienna Oslo Dublin Prague Athens Lisbon Warsaw Moscow Cairo Tokyo
Delhi Boston Chicago Toronto Sydney
"""
"""By falling number of people: city number k, from 0, has a share that is 1 / (k + 2) of them."""


def demonstrations(seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield a row for each person; another seed gives other people and other cities."""
    rng = random.Random(seed)
    people = [f"{first} {last}" for first in FIRST_NAMES.split() for last in LAST_NAMES.split()]
    rng.shuffle(people)
    cities = CITIES.split()
    shares = [1 / (rank + 2) for rank in range(len(cities))]
    for name in people[:NUM_PEOPLE]:
        (city,) = rng.choices(cities, shares)
        is_open = rng.random() < OPEN_SHARE
        is_known = is_open or rng.random() >= UNKNOWN_SHARE
        known, unknown = f"{name} was born in {city}.", f"I do not know where {name} was born."
        question = f"Where was {name} born?"
        yield {
            "prompt": f"Note: {name}, {city}.\n{question}" if is_open else question,
            "response": known if is_known else unknown,
            "record": f"Record: {name}, {city}.",
            "question": "open" if is_open else "closed",
            "name": name,
            "city": city,
        }


def main() -> None:
    """Write the files that are missing."""
    if not DATA.exists():
        write_rows(demonstrations(), DATA)
    prepare_model()


if __name__ == "__main__":
    sys.exit(main())
