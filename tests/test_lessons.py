"""A student's working copy of the lessons."""

import pytest

from esc_lib.files import WriteError
from esc_lib.lessons import COPY, LESSONS, copy_lessons


@pytest.fixture
def course(tmp_path):
    for name in ("00_a.ipynb", "03_b.ipynb", "03_b.yaml", "solutions/00_a.ipynb", ".ipynb_checkpoints/00_a.ipynb"):
        (tmp_path / "notebooks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "notebooks" / name).write_text(f"{name}, first edition", encoding="utf-8")
    return tmp_path / "notebooks"


@pytest.fixture
def copy(tmp_path):
    return tmp_path / "my_lessons"


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".copied.json"
    }


def test_all_lessons_are_copied_once(course, copy):
    assert copy_lessons(course, copy) == []
    assert sorted(contents(copy)) == ["00_a.ipynb", "03_b.ipynb", "03_b.yaml", "solutions/00_a.ipynb"]
    assert copy_lessons(course, copy) == []


def test_what_a_student_changed_stays_and_updates_are_announced_until_they_are_taken(course, copy):
    copy_lessons(course, copy)
    for name in ("00_a.ipynb", "03_b.ipynb"):
        (copy / name).write_text("mine", encoding="utf-8")
    (course / "03_b.ipynb").write_text("second edition", encoding="utf-8")
    (course / "04_c.ipynb").write_text("new", encoding="utf-8")
    for _ in range(2):
        assert copy_lessons(course, copy) == ["03_b.ipynb"]
        assert contents(copy)["00_a.ipynb"] == contents(copy)["03_b.ipynb"] == "mine"
        assert contents(copy)["04_c.ipynb"] == "new"
    (copy / "03_b.ipynb").rename(copy / "03_b_mine.ipynb")
    assert copy_lessons(course, copy) == []
    assert contents(copy)["03_b.ipynb"] == "second edition" and contents(copy)["03_b_mine.ipynb"] == "mine"


def test_a_file_of_the_students_own_is_not_taken_for_a_copy(course, copy):
    copy.mkdir()
    (copy / "00_a.ipynb").write_text("mine, before", encoding="utf-8")
    assert copy_lessons(course, copy) == ["00_a.ipynb"]
    assert contents(copy)["00_a.ipynb"] == "mine, before"


def test_where_nothing_can_be_written_it_says_so(course, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WriteError, match="file"):
        copy_lessons(course, tmp_path / "file" / "my_lessons")


def test_the_links_of_a_copy_lead_where_the_lessons_do():
    """Both folders lie in the repository, so that ../docs and the like are the same from both."""
    assert COPY.parent == LESSONS.parent and LESSONS.is_dir()
    ignored = (COPY.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert f"{COPY.name}/" in ignored
