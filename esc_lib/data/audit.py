"""What is in a set: recordings in several folds, duplicates, silence, clipping, short clips, and file formats.

A test on recordings that were also used for training is too easy, and from silence there is nothing to learn.
"""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from esc_lib.arguments import as_path
from esc_lib.data.audio import open_recording
from esc_lib.data.clips import Clips, trim_silence
from esc_lib.data.datasets import find_root, get_dataset, is_own, read_table
from esc_lib.data.own import read_own

PEAK = 32767  # full scale of 16-bit samples; -32768 counts too
CLIPPED = 3  # samples in a row at full scale: a loud sound touches it once, a clipped one stays there


def audit(clips: Clips) -> pd.DataFrame:
    """Counts what you should know about a set before you trust a result on it.

    Args:
        clips: all folds that are used together, on the CPU. Best at the recordings' own rate: resampling rounds off
            clipped peaks, and duplicates that differ in their leading silence may no longer be equal.

    Returns:
        a row per finding: `finding`, `count`, `of` (how many recordings, clips or samples there are), `share` (`count`
        divided by `of`) and `example`, the first one or two. Digital silence: the zeros at both ends of a clip. How
        long a clip should be: as the published set says; in a set of your own, as long as the longest.
    """
    facts = describe_clips(clips).sort_values("sound", kind="stable")  # duplicates side by side
    longest = int(clips.frames.max()) / clips.sample_rate
    seconds = longest if is_own(clips.dataset) else get_dataset(clips.dataset).seconds
    limit = round(seconds * clips.sample_rate)
    conditions = {
        "clips of these recordings": facts["crosses_folds"],
        "duplicates within a fold": facts["equal_in_fold"],
        "duplicates across folds": facts["equal_across_folds"],
        "silent clips (all zeros)": facts["silent"],
        "other clips with leading zeros": facts["zeros_before"] > 0,
        "other clips with trailing zeros": facts["zeros_after"] > 0,
        "clips that reach full scale": facts["full_scale"],
        f"clips with {CLIPPED} samples in a row at full scale": facts["clipped"],
        f"clips shorter than {seconds:g} s": facts["frames"] < limit,
    }
    across = facts["recording"][facts["crosses_folds"]]
    rows = [("recordings in several folds", across.nunique(), facts["recording"].nunique(), _first(across))]
    rows += [(name, int(true.sum()), len(facts), _first(facts["file"][true])) for name, true in conditions.items()]
    rows += _samples(facts, limit, f"{seconds:g} s")
    table = pd.DataFrame(rows, columns=["finding", "count", "of", "example"])
    table.insert(3, "share", table["count"] / table["of"])
    return table


def describe_clips(clips: Clips) -> pd.DataFrame:
    """What `audit` counts, clip by clip: a row per clip, in the clips' order.

    Returns:
        columns `file`, `fold`, `category`, `recording` and `frames` as in the set's table; `crosses_folds`: whether the
        recording has clips in other folds too; `zeros_before`, `zeros_after`: digital silence at both ends, in
        samples; `silent`: whether all samples are zero (`zeros_before` and `zeros_after` are 0 then); `sound`: a
        number, the same for clips with the same samples once the silence is trimmed; `equal_in_fold`,
        `equal_across_folds`: whether it has a duplicate in its own fold, or in another one (silent clips have none);
        `full_scale`: whether a sample is at full scale; `clipped`: whether `CLIPPED` in a row are.
    """
    trimmed = trim_silence(clips)
    waveforms = [trimmed.waveform(i).numpy() for i in range(len(clips))]
    table = clips.table[["file", "fold", "category", "recording"]].assign(frames=clips.frames.numpy())
    table["crosses_folds"] = table.groupby("recording")["fold"].transform("nunique") > 1
    table["zeros_before"] = (trimmed.offsets - clips.offsets).numpy()
    table["zeros_after"] = (clips.frames - trimmed.frames).numpy() - table["zeros_before"]
    table["silent"] = [not waveform.any() for waveform in waveforms]
    # Silent clips all differ: they are not counted as duplicates.
    sounds = [hashlib.sha256(w.tobytes()).digest() if w.any() else i for i, w in enumerate(waveforms)]
    table["sound"] = pd.factorize(pd.Series(sounds, dtype=object))[0]
    table["equal_in_fold"] = table.duplicated(["sound", "fold"], keep=False)
    table["equal_across_folds"] = table.groupby("sound")["fold"].transform("nunique") > 1
    peaks = np.array([_longest_peak(waveform) for waveform in waveforms])
    table["full_scale"], table["clipped"] = peaks >= 1, peaks >= CLIPPED
    return table


def formats(dataset: str, source: str | Path) -> pd.DataFrame:
    """Counts the recordings of an extracted set, or of your own (`source`), by how they are stored, from their headers.

    Returns:
        columns `container`, `encoding`, `rate` (Hz), `channels` and `recordings`, the most frequent first.

    Raises:
        FileNotFoundError: no such set in the folder, or no such recording.
        ValueError: unknown set, or a table or a recording that cannot be read.
    """
    if is_own(dataset):
        _, root, table = read_own(dataset, as_path("source", source))
    else:
        spec = get_dataset(dataset)
        root = find_root(spec, source)
        table = read_table(spec, root)
    columns = ["container", "encoding", "rate", "channels"]
    recordings = [open_recording(root / file) for file in table["file"]]
    return pd.DataFrame(recordings)[columns].value_counts().rename("recordings").reset_index()


def _samples(facts: pd.DataFrame, limit: int, longest_allowed: str) -> list[tuple[str, int, int, str]]:
    zeros = facts["zeros_before"] + facts["zeros_after"] + facts["frames"].where(facts["silent"], 0)
    by_length = facts.sort_values("frames", kind="stable")
    shortest, longest = by_length.iloc[0], by_length.iloc[-1]
    return [
        ("samples of digital silence", int(zeros.sum()), int(facts["frames"].sum()), ""),
        (f"samples in the shortest clip, of {longest_allowed}", shortest["frames"], limit, shortest["file"]),
        (f"samples in the longest clip, of {longest_allowed}", longest["frames"], limit, longest["file"]),
    ]


def _first(found: pd.Series) -> str:
    """The first two, as text."""
    return ", ".join(map(str, found.unique()[:2]))


def _longest_peak(waveform: npt.NDArray[np.int16]) -> int:
    """Length of the longest run of samples at full scale."""
    inside = np.flatnonzero((waveform > -PEAK) & (waveform < PEAK))
    return int(np.diff(inside, prepend=-1, append=len(waveform)).max()) - 1
