"""`python -m esc_lib.interpret RUN...`: stores the front-ends of finished runs, one file a network."""

import argparse

from esc_lib.interpret.frontends import save_frontend

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory")
    for run in parser.parse_args().runs:
        file = save_frontend(run)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")
