"""`make bench`: measures the networks one after the other, each in a process of its own, and writes what it finds.

python -m esc_lib.bench [networks] [--dataset esc10] [--batch-size 8] [--compile]
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from esc_lib.bench.measure import benchmark_table, measure
from esc_lib.data.prepare import prepare
from esc_lib.files import write_json
from esc_lib.models import ARCHITECTURES, get_architecture
from esc_lib.paths import runs_folder
from esc_lib.training.compute import hardware, pick_device


def main() -> None:
    """Measures, prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(ARCHITECTURES), help="all, if none is named")
    parser.add_argument("--dataset", default="synthetic", help="clips to train on; prepared if they are not there")
    parser.add_argument("--batch-size", type=int, help="the paper's if not given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too, which takes minutes")
    parser.add_argument("--out", type=Path, default=runs_folder() / "bench.json")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for architecture in given.networks:
        prepare(given.dataset, get_architecture(architecture).SAMPLE_RATE)
        settings = dict(dataset=given.dataset, batch_size=given.batch_size, repeats=given.repeats)
        call = partial(measure, architecture, **settings, compiled=given.compile)
        # A process of its own, because the peak memory of a process can only grow.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(call).result())
        write_json(given.out, {**hardware(pick_device()), "dataset": given.dataset, "rows": rows})
        print(benchmark_table(rows[-1:]).T.to_string(header=False), "\n", flush=True)
    print(benchmark_table(rows).to_string(index=False))
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
