"""`make results`, or `python -m esc_lib.results`."""

from esc_lib.results.tables import write_tables

if __name__ == "__main__":
    write_tables()
