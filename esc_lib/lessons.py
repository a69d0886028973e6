"""A student's working copy of the lessons, so that an update of the course and a student's changes never collide."""

import hashlib
from operator import methodcaller
from pathlib import Path

from esc_lib.files import atomic_write, make_folder, read_json, write_json
from esc_lib.paths import REPOSITORY

LESSONS, COPY = REPOSITORY / "notebooks", REPOSITORY / "my_lessons"
COPIED = ".copied.json"  # of every file the hash that the course's own had when it was copied
PATTERNS = ("*.ipynb", "*.yaml", "solutions/*.ipynb")


def copy_lessons(lessons: Path = LESSONS, copy: Path = COPY) -> list[str]:
    """Copies the lessons that are not in the copy yet. What is there stays as it is, whatever the course has become.

    Args:
        lessons: the course's own, with their solutions.
        copy: where a student works.

    Returns:
        names of lessons that the course has changed since they were copied, sorted.

    Raises:
        WriteError: the copy cannot be written.
    """
    make_folder(copy)
    files = sorted(path for pattern in PATTERNS for path in lessons.glob(pattern))
    copied = read_json(copy / COPIED, dict, remedy="delete it") if (copy / COPIED).is_file() else {}
    changed = []
    for path in files:
        name, data = path.relative_to(lessons).as_posix(), path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if not (copy / name).exists():
            make_folder((copy / name).parent)
            atomic_write(copy / name, methodcaller("write", data))
            copied[name] = digest
        elif copied.get(name) != digest:
            changed.append(name)
    write_json(copy / COPIED, copied)
    return changed


if __name__ == "__main__":
    for name in copy_lessons():
        print(f"{name} has changed in the course since you copied it: rename yours in {COPY.name}/ to get the new one")
