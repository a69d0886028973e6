"""What a result says of the machine that it comes from."""

import torch

from esc_lib.training.compute import commit, hardware

FIRST, SECOND = "1" * 40, "2" * 40


def write(folder, files):
    for name, text in files.items():
        path = folder / ".git" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_commit_of_a_branch_of_packed_branches_and_of_none(tmp_path):
    loose = write(tmp_path / "loose", {"HEAD": "ref: refs/heads/main\n", "refs/heads/main": f"{FIRST}\n"})
    lines = f"# pack-refs with: peeled\n{SECOND} refs/heads/other\n^{SECOND}\n{FIRST} refs/heads/main\n"
    packed = write(tmp_path / "packed", {"HEAD": "ref: refs/heads/main\n", "packed-refs": lines})
    detached = write(tmp_path / "detached", {"HEAD": f"{FIRST}\n"})
    assert commit(loose) == commit(packed) == commit(detached) == FIRST
    assert commit(write(tmp_path / "empty", {"HEAD": "ref: refs/heads/main\n"})) == ""
    assert commit(tmp_path / "no clone") == ""


def test_the_processor_and_its_threads():
    found = hardware(torch.device("cpu"))
    assert found["threads"] == torch.get_num_threads() and found["torch"] == torch.__version__
    assert found["device"] and found["commit"] == commit()
