"""`make speedrun`: the processor time of a five-fold cross-validation of ESC-10 with a fast recipe, and its accuracy.

python -m esc_lib.bench.speedrun [network] [--epochs N] [--save]
"""

import argparse
import tempfile

from esc_lib.data.prepare import prepare
from esc_lib.evaluation.cross_validation import cross_validate
from esc_lib.models import ARCHITECTURES, get_architecture
from esc_lib.paths import runs_folder
from esc_lib.results.records import save_record
from esc_lib.training.compute import auto_precision, pick_device
from esc_lib.training.recipes import recipe

RECORD = "m34res"  # from the README's board; others are named on the command line


def main() -> None:
    """Trains from the start, whatever was trained before, and prints what the README's board shows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", nargs="?", default=RECORD, choices=list(ARCHITECTURES))
    parser.add_argument("--epochs", type=int, help="if not as many as the fast recipe has")
    parser.add_argument("--save", action="store_true", help="keep it as a record in data/results, if there is none")
    given = parser.parse_args()
    prepare("esc10", get_architecture(given.network).SAMPLE_RATE)
    device = pick_device()
    epochs = {} if given.epochs is None else {"epochs": given.epochs}
    config = recipe(given.network, "esc10", kind="fast", precision=auto_precision(device), **epochs)
    runs_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="speedrun-", dir=runs_folder()) as folder:
        found = cross_validate(config, n_jobs=2 if device.type == "cpu" else 1, save_dir=folder)
        print(found.runs[["fold", "accuracy", "minutes", "processor_minutes"]].to_string(index=False))
        minutes = found.runs["processor_minutes"].sum()
        print(f"{given.network}: {found.summary()['mean of runs']:.1%} in {minutes:.1f} processor minutes")
        if given.save:  # which raises where a record with other runs is there: what was found has been shown by then
            print(f"kept as {save_record(found).name}: call make results")


if __name__ == "__main__":
    main()
