"""What is in a set: what crosses its folds, stands in it twice, is silent, clipped or short, and how it was published.

A network that learned from a recording is tested on it too easily, and from silence there is nothing to learn.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from esc_lib.data.clips import Clips, trim_silence
from esc_lib.data.datasets import find_root, get_dataset, read_table

PEAK = 32767  # full scale; on the other side 16 bits reach one further
CLIPPED = 3  # samples in a row at full scale: a loud sound touches it with one, a sound that was cut off stays there


def audit(clips: Clips) -> pd.DataFrame:
    """Counts what one should know of a set before one believes a result on it.

    Args:
        clips: of all folds that are used together, in the CPU's memory. Best at the recordings' own rate: resampling
            rounds off what was clipped, and clips that differ only in the silence before a sound may no longer be
            equal.

    Returns:
        a row per finding: `finding`, `count`, `of` how many recordings, clips or samples, `share` (the one by the
        other) and `example`, the first or the first two. Digital silence is zeros at both ends of a clip.
    """
    facts = describe_clips(clips).sort_values("sound", kind="stable")  # equal clips beside one another
    seconds = get_dataset(clips.dataset).seconds
    limit = round(seconds * clips.sample_rate)
    conditions = {
        "clips of these recordings": facts["crosses_folds"],
        "clips equal to another of their fold": facts["equal_in_fold"],
        "clips equal to one of another fold": facts["equal_across_folds"],
        "clips of zeros only": facts["silent"],
        "other clips that begin with zeros": facts["zeros_before"] > 0,
        "other clips that end with zeros": facts["zeros_after"] > 0,
        "clips that touch full scale": facts["full_scale"],
        f"clips with {CLIPPED} samples in a row there": facts["clipped"],
        f"clips shorter than {seconds:g} s": facts["frames"] < limit,
    }
    rows = [_crossing(facts)]
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
        samples; `silent`: whether there is nothing but zeros (the two before are 0 then); `sound`: a number, the
        same for clips with the same samples between the silences; `equal_in_fold`, `equal_across_folds`: whether
        another clip of the fold, or one of another fold, has the same samples (silent clips are equal to none);
        `full_scale`: whether a sample is at full scale; `clipped`: whether `CLIPPED` in a row are.
    """
    trimmed = trim_silence(clips)
    waveforms = [trimmed.waveform(i).numpy() for i in range(len(clips))]
    table = clips.table[["file", "fold", "category", "recording"]].assign(frames=clips.frames.numpy())
    table["crosses_folds"] = table.groupby("recording")["fold"].transform("nunique") > 1
    table["zeros_before"] = (trimmed.offsets - clips.offsets).numpy()
    table["zeros_after"] = (clips.frames - trimmed.frames).numpy() - table["zeros_before"]
    table["silent"] = [not waveform.any() for waveform in waveforms]
    sounds = [hashlib.sha256(w).digest() if w.any() else i for i, w in enumerate(waveforms)]  # no two silent ones alike
    table["sound"] = pd.factorize(pd.Series(sounds, dtype=object))[0]
    table["equal_in_fold"] = table.duplicated(["sound", "fold"], keep=False)
    table["equal_across_folds"] = table.groupby("sound")["fold"].transform("nunique") > 1
    table["full_scale"] = [_longest_peak(waveform) >= 1 for waveform in waveforms]
    table["clipped"] = [_longest_peak(waveform) >= CLIPPED for waveform in waveforms]
    return table


def formats(dataset: str, source: str | Path) -> pd.DataFrame:
    """Counts a set's recordings by how they are stored; only their headers are read.

    Args:
        dataset: "synthetic", "esc10", "esc50" or "urbansound8k".
        source: the extracted set, as for `prepare`.

    Returns:
        columns `container`, `encoding`, `rate` (Hz), `channels` and `recordings`, the most frequent first.

    Raises:
        FileNotFoundError: no such set in the folder.
        ValueError: unknown set, or a table or a recording that cannot be read.
    """
    spec = get_dataset(dataset)
    root = find_root(spec, source)
    rows = [_format(root / file) for file in read_table(spec, root)["file"]]
    columns = ["container", "encoding", "rate", "channels"]
    return pd.DataFrame(rows, columns=columns).value_counts().rename("recordings").reset_index()


def _format(path: Path) -> tuple[str, str, int, int]:
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{path} cannot be opened ({error.error_string}): missing, not audio, or damaged; fetch it again"
        ) from error
    return info.format, info.subtype, info.samplerate, info.channels


def _crossing(facts: pd.DataFrame) -> tuple[str, int, int, str]:
    across = facts["recording"][facts["crosses_folds"]]
    return "recordings in several folds", across.nunique(), facts["recording"].nunique(), _first(across)


def _samples(facts: pd.DataFrame, limit: int, longest_allowed: str) -> list[tuple[str, int, int, str]]:
    zeros = facts["zeros_before"] + facts["zeros_after"] + facts["frames"].where(facts["silent"], 0)
    by_length = facts.sort_values("frames", kind="stable")
    shortest, longest = by_length.iloc[0], by_length.iloc[-1]
    return [
        ("samples of digital silence", zeros.sum(), facts["frames"].sum(), ""),
        (f"samples of the shortest clip, of {longest_allowed}", shortest["frames"], limit, shortest["file"]),
        (f"samples of the longest clip, of {longest_allowed}", longest["frames"], limit, longest["file"]),
    ]


def _first(found: pd.Series) -> str:
    """The first two, as text."""
    return ", ".join(map(str, found.unique()[:2]))


def _longest_peak(waveform: np.ndarray) -> int:
    """Number of samples in the longest run at full scale."""
    inside = np.flatnonzero((waveform > -PEAK) & (waveform < PEAK))
    return int(np.diff(inside, prepend=-1, append=len(waveform)).max()) - 1
