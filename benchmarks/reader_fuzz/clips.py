"""Videos whose frames show their own number, and the frame that belongs to each row by construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

import av
import numpy as np

from benchmarks.reader_fuzz.spec import TIMINGS, CameraSpec

# A frame shows a number of 12 bits and its complement's last 4 bits as 4 x 4 black and white squares, which every
# codec preserves.
BITS, CHECK, SQUARE = 12, 4, 8
SIZE = 4 * SQUARE
DARK, LIGHT = 20, 235
UNREADABLE = -1
# Some codecs allow no denominator above 65535.
TIME_BASE = Fraction(1, 60000)
OFFSET = 0.5
RATES = {"ntsc": 1000 / 1001, "slow": 0.985, "fast": 1.015, "from_real": 1000 / 1001, "slow_tail": 0.985}


@dataclass(frozen=True)
class FilePlan:
    """
    The content of one video file.

    Attributes:
        times: seconds of each frame, from the start of the file.
        starts: `from_timestamp` of each episode, in seconds.
        frames: of each episode, the ordinal in the file of the frame of each row; None where there is none.
        expected: of each episode, `"read"`, `"may"` or `"refuse"` as in `Oddity`.
    """

    times: list[float]
    starts: list[float]
    frames: list[list[int | None]]
    expected: list[str]


def plan_file(lengths: Sequence[int], timing: str, fps: float, random: Random) -> FilePlan:
    """Lay out the frames of the episodes of one file."""
    total = sum(lengths)
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    if total < 4 and timing not in ("video_missing", "video_cut"):
        timing = "exact"
    if timing == "compensated" and (len(lengths) < 2 or lengths[1] < 2):
        timing = "tail"
    if timing == "half_rate" and total < 6:
        timing = "exact"
    rows: list[list[int | None]] = [
        [begin + i for i in range(length)] for begin, length in zip(begins, lengths, strict=True)
    ]
    times = [float(i) for i in range(total)]
    starts = [float(begin) for begin in begins]
    expected = [TIMINGS[timing].expected] * len(lengths)
    rate = RATES.get(timing, 1.0)
    if timing == "irregular":
        times = [time + random.uniform(-0.3, 0.3) * (i > 0) for i, time in enumerate(times)]
    elif timing == "uneven":
        times = [i * 0.8 if i < total / 2 else i * 0.8 + (i - total / 2) * 0.4 for i in range(total)]
    elif timing == "from_drift":
        drift = 0.0
        for i in range(len(starts)):
            starts[i] += drift
            drift += random.uniform(0.1, 0.5)
    elif timing == "from_real":
        starts = [start / rate for start in starts]
    elif timing in ("tail", "slow_tail", "offset_tail"):
        times += [float(total + i) for i in range(random.randint(1, 3))]
    elif timing == "between":
        times, shift = [], 0
        for i, length in enumerate(lengths):
            starts[i] += shift
            rows[i] = [row + shift for row in rows[i] if row is not None]
            shift += random.randint(1, 2)
            times = [float(k) for k in range(begins[i] + length + shift)]
    elif timing in ("dropped", "dropped_closed"):
        lost = random.randrange(1, total - 1)
        times.pop(lost if timing == "dropped" else -1)
        rows = [[None if row == lost else row - (row > lost) for row in each if row is not None] for each in rows]
        if timing == "dropped_closed":
            expected = ["may"] * (len(lengths) - 1) + ["refuse"]
    elif timing == "inserted":
        after = random.randrange(total - 1)
        times.insert(after + 1, after + 0.5)
        rows = [[row + (row > after) for row in each if row is not None] for each in rows]
    elif timing == "compensated":
        starts[1] += 1
        rows[1] = [*range(begins[1] + 1, begins[1] + lengths[1]), None]
    elif timing == "double_rate":
        times = [i / 2 for i in range(2 * total)]
        rows = [[2 * row for row in each if row is not None] for each in rows]
    elif timing == "half_rate":
        times = [2.0 * i for i in range(total // 2)]
        rows = [
            [None if row % 2 or row // 2 >= len(times) else row // 2 for row in e if row is not None] for e in rows
        ]
        expected = ["may" if length < 2 else "refuse" for length in lengths]
    elif timing == "short":
        times = times[:-2]
        rows = [[row if row < len(times) else None for row in each if row is not None] for each in rows]
        expected = ["refuse" if None in each else "may" for each in rows]
    elif timing == "video_cut":
        # How much is left depends on the container.
        expected = ["may"] * (len(lengths) - 1) + ["refuse"]
    offset = OFFSET if timing.startswith("offset") else 0.0
    return FilePlan([offset + time / rate / fps for time in times], [start / fps for start in starts], rows, expected)


def painted(number: int) -> np.ndarray:
    """A frame that shows a number, `(SIZE, SIZE, 3)` uint8."""
    code = (number & (2**BITS - 1)) << CHECK | (~number & (2**CHECK - 1))
    bits = np.array([code >> i & 1 for i in range(16)], dtype=bool).reshape(4, 4)
    squares = np.where(bits, LIGHT, DARK).astype(np.uint8)
    return np.repeat(np.kron(squares, np.ones((SQUARE, SQUARE), np.uint8))[:, :, None], 3, axis=2)


def shown(image: np.ndarray) -> int:
    """The number that a decoded frame shows; `UNREADABLE` if it shows none."""
    if image.shape != (SIZE, SIZE, 3):
        return UNREADABLE
    inner = image.reshape(4, SQUARE, 4, SQUARE, 3)[:, 2:-2, :, 2:-2].mean(axis=(1, 3, 4))
    if (np.abs(inner - (DARK + LIGHT) / 2) < 25).any():
        return UNREADABLE
    code = sum(1 << i for i, light in enumerate((inner > (DARK + LIGHT) / 2).ravel()) if light)
    number = code >> CHECK
    return number if (~number & (2**CHECK - 1)) == code & (2**CHECK - 1) else UNREADABLE


def write_video(path: Path, times: Sequence[float], first_number: int, camera: CameraSpec, fps: float) -> None:
    """
    Encode frames that show `first_number`, `first_number + 1`, … at the given seconds.

    Some encoders fail at some sizes or blur a frame beyond recognition; a plain one takes their place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    right = list(range(first_number, first_number + len(times)))
    try:
        _encode(path, times, first_number, camera, fps)
        sound = _decoded(path, times) == right
    except av.error.FFmpegError:
        sound = False
    if not sound:
        plain = "libvpx-vp9" if camera.container == "webm" else "libx264"
        _encode(path, times, first_number, dataclasses.replace(camera, codec=plain, bframes=0), fps)
        if _decoded(path, times) != right:
            raise RuntimeError(f"{camera} cannot be encoded")


def _decoded(path: Path, times: Sequence[float]) -> list[int]:
    """The numbers that the frames show, decoded one after the other; none if a time stamp is wrong."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if any(abs(frame.time - time) > 0.002 for frame, time in zip(frames, times, strict=False)):
        return []
    return [shown(frame.to_ndarray(format="rgb24")) for frame in frames]


def _encode(path: Path, times: Sequence[float], first_number: int, camera: CameraSpec, fps: float) -> None:
    options = {"g": str(camera.gop), "bf": str(camera.bframes)}
    if camera.codec == "libx264":
        options |= {"crf": "12", "preset": "ultrafast" if camera.bframes == 0 else "veryfast"}
        options["x264-params"] = f"open-gop={int(camera.open_gop)}:threads=1"
    elif camera.codec == "libx265":
        parameters = f"log-level=none:qp=10:pools=1:frame-threads=1:bframes={camera.bframes}:keyint={camera.gop}"
        options = {"preset": "ultrafast"}
        options["x265-params"] = f"{parameters}:open-gop={int(camera.open_gop)}"
    elif camera.codec == "libsvtav1":
        options = {"g": str(camera.gop), "crf": "4", "preset": "10"}
        options["svtav1-params"] = f"irefresh-type={1 if camera.open_gop else 2}"
    elif camera.codec == "libvpx-vp9":
        options = {"g": str(camera.gop), "crf": "10", "b": "0", "cpu-used": "8", "deadline": "realtime"}
        options |= {"auto-alt-ref": "1", "lag-in-frames": "12"} if camera.bframes else {}
    else:
        options["qscale"] = "2"
        options["b"] = "2000000"
    rate = Fraction(fps).limit_denominator(1001)
    base = 1 / rate if camera.container == "avi" else TIME_BASE
    with av.open(str(path), "w") as container:
        stream = container.add_stream(camera.codec, rate=rate, options=options)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = base
        for i, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(painted(first_number + i), format="rgb24")
            frame.pts, frame.time_base = round(seconds / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
