"""The description of a drawn dataset, and what a sound reader does with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random

V2, V3 = ("v2.0", "v2.1"), ("v3.0",)
VERSIONS = (*V2, *V3)
FPS = (10, 15, 24, 29.97, 30, 30, 50, 60)
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "uint8", "bool")
STORAGE = ("list", "large_list", "fixed_list")


@dataclass(frozen=True)
class Oddity:
    """
    A property of a drawn dataset that a naive reader gets wrong.

    Attributes:
        expected: `"read"`, the content must be read; `"may"`, it may be refused, but what is read must be right;
            `"refuse"`, reading must raise `InputError`.
        group: of each group, a dataset has at most one oddity.
        warns: whether the reader derives or repairs something, which needs a `DataWarning`.
        versions: formats in which the oddity exists.
    """

    expected: str
    group: str
    warns: bool = False
    versions: tuple[str, ...] = VERSIONS


ODDITIES = {
    "bom_info": Oddity("read", "mark"),
    "bom_lines": Oddity("read", "mark", versions=V2),
    "version_spelled": Oddity("read", "version"),
    "version_minor": Oddity("read", "version", warns=True, versions=V3),
    "version_missing": Oddity("read", "version"),
    "version_newer": Oddity("refuse", "version"),
    "version_older": Oddity("refuse", "version"),
    "no_templates": Oddity("read", "template"),
    "foreign_template": Oddity("may", "template"),
    "totals_wrong": Oddity("read", "totals", warns=True),
    "totals_missing": Oddity("read", "totals"),
    "episode_twice": Oddity("refuse", "episodes"),
    "length_wrong": Oddity("refuse", "episodes"),
    "tasks_named_index": Oddity("read", "tasks", versions=V3),
    "tasks_plural": Oddity("read", "tasks", versions=V3),
    "tasks_unnamed_index": Oddity("read", "tasks", versions=V3),
    "tasks_range_index": Oddity("read", "tasks", versions=V3),
    "tasks_large_text": Oddity("read", "tasks", versions=V3),
    "tasks_dictionary": Oddity("read", "tasks", versions=V3),
    "tasks_sparse": Oddity("read", "tasks"),
    "task_number_twice": Oddity("refuse", "tasks"),
    "task_unknown": Oddity("refuse", "tasks"),
    "index_lists": Oddity("read", "index"),
    "index_int32": Oddity("read", "index"),
    "index_float": Oddity("read", "index"),
    "no_frame_index": Oddity("read", "index", warns=True),
    "no_index": Oddity("read", "index", warns=True),
    "no_task_index": Oddity("read", "index", warns=True),
    "no_episode_index": Oddity("read", "index", warns=True),
    "no_timestamp": Oddity("read", "index"),
    "index_repeats": Oddity("read", "index", warns=True),
    "index_sparse": Oddity("read", "index"),
    "rows_reversed": Oddity("may", "index"),
    "rows_interleaved": Oddity("may", "index", versions=V3),
    "stale_file_index": Oddity("read", "files", warns=True, versions=V3),
    "table_missing": Oddity("refuse", "files"),
    "table_cut": Oddity("refuse", "files"),
    "table_is_pointer": Oddity("refuse", "files"),
    "unused_nan": Oddity("read", "unused"),
    "unused_nulls": Oddity("read", "unused"),
    "unused_null_type": Oddity("read", "unused"),
    "unused_width": Oddity("read", "unused"),
    "unused_missing": Oddity("read", "unused"),
    "unused_text": Oddity("read", "unused"),
    "unused_listed_nowhere": Oddity("read", "unused"),
    "state_nan": Oddity("refuse", "state"),
    "state_null": Oddity("refuse", "state"),
    "state_width": Oddity("refuse", "state"),
    "state_nested": Oddity("read", "state"),
    "state_nested_flat": Oddity("may", "state"),
    "state_named_otherwise": Oddity("read", "state", warns=True),
    "state_in_parts": Oddity("read", "state", warns=True),
    "depth_camera": Oddity("read", "depth"),
    "names_dict": Oddity("read", "names"),
    "names_nested": Oddity("read", "names"),
    "names_missing": Oddity("read", "names"),
    "times_jitter": Oddity("read", "times"),
    "times_gap": Oddity("read", "times"),
    "times_pause": Oddity("read", "times", warns=True),
    "times_coarse": Oddity("read", "times"),
    "times_tenths": Oddity("read", "times"),
    "times_seconds": Oddity("read", "times"),
    "times_tenths_pause": Oddity("read", "times", warns=True),
    "times_seconds_pause": Oddity("read", "times", warns=True),
    "times_float64": Oddity("read", "times"),
}

# How the frames of a camera lie in time, with the expectation for the affected episodes. `equal` in the comments: the
# file has as many frames as rows, so a frame's ordinal decides.
TIMINGS = {
    "exact": Oddity("read", "timing"),
    "ntsc": Oddity("read", "timing"),  # equal, 1000/1001 of the rate
    "slow": Oddity("read", "timing"),  # equal, 1.5 % slower
    "fast": Oddity("read", "timing"),  # equal, 1.5 % faster
    "irregular": Oddity("read", "timing"),  # equal, each frame up to 0.3 frames early or late
    "uneven": Oddity("read", "timing"),  # equal, first half slower, second half faster
    "offset": Oddity("read", "timing"),  # equal, the first time stamp is not 0
    "from_drift": Oddity("read", "timing", versions=V3),  # equal, from_timestamp drifts
    "from_real": Oddity("read", "timing", versions=V3),  # equal, 29.97 fps and from_timestamp accordingly
    "tail": Oddity("read", "timing"),  # more frames than rows at the end
    "between": Oddity("read", "timing", versions=V3),  # more frames than rows after each episode
    "slow_tail": Oddity("may", "timing"),
    "offset_tail": Oddity("may", "timing"),
    "dropped": Oddity("may", "timing"),  # a frame is missing, the others keep their times
    "dropped_closed": Oddity("refuse", "timing"),  # a frame is missing, later ones come earlier
    "inserted": Oddity("may", "timing"),  # a frame more, between two others
    "compensated": Oddity("may", "timing", versions=V3),  # one episode a frame more, the next a frame less
    "double_rate": Oddity("may", "timing"),
    "half_rate": Oddity("refuse", "timing"),
    "short": Oddity("refuse", "timing"),
    "video_missing": Oddity("refuse", "timing"),
    "video_cut": Oddity("refuse", "timing"),
}
# Oddities that together leave the content open.
TOGETHER_OPEN = ({"no_episode_index", "stale_file_index"}, {"rows_reversed", "no_timestamp"})
CODECS = ("libx264", "libx264", "libx264", "libx265", "mpeg4", "libvpx-vp9", "libsvtav1")
CONTAINERS = {
    "libx264": ("mp4", "mp4", "mkv", "mov"),
    "libx265": ("mp4", "mkv"),
    "mpeg4": ("mp4", "avi", "mkv"),
    "libvpx-vp9": ("webm", "mkv", "mp4"),
    "libsvtav1": ("mp4", "mp4", "webm"),
}


@dataclass(frozen=True)
class CameraSpec:
    """A camera: stored as `"video"` or as `"image"` cells of the tables; how its videos are encoded and timed."""

    stored: str = "video"
    timing: str = "exact"
    codec: str = "libx264"
    container: str = "mp4"
    gop: int = 2
    bframes: int = 0
    open_gop: bool = False
    # Number of episodes in each video file; the last number repeats.
    cuts: tuple[int, ...] = (99,)


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset to write; the defaults describe a plain one."""

    version: str = "v3.0"
    fps: float = 30
    lengths: tuple[int, ...] = (5,)
    ids: tuple[int, ...] = (0,)
    # The positions of the episodes in the order in which the metadata and the files contain them.
    order: tuple[int, ...] = (0,)
    # Number of episodes in each data file; the last number repeats.
    cuts: tuple[int, ...] = (99,)
    files_per_chunk: int = 1000
    row_group: int = 1000
    compression: str = "snappy"
    state_width: int = 3
    state_dtype: str = "float32"
    action_dtype: str = "float32"
    storage: str = "fixed_list"
    tasks: tuple[str, ...] = ("reach",)
    tasks_change: bool = False
    folder: str = "data"
    oddities: tuple[str, ...] = ()
    cameras: tuple[CameraSpec, ...] = ()
    content: int = 0

    @property
    def v3(self) -> bool:
        """Whether files hold several episodes, as in v3.0."""
        return self.version == "v3.0"


TASKS = (
    "reach",
    "pick up the cup",
    "Öffne die Tür",
    "打开门",
    'say "a, b"',
    "tab\tand\nline",
    "reach ",
    "🤖",
    "x" * 300,
)
FOLDERS = ("data", "a", "a=b", "mit Leerzeichen", "Tür", "info", "100%", "meta", "x{0}")


def draw_spec(random: Random) -> DatasetSpec:
    """Draw a dataset: mostly sound ones with none to four oddities, at most one of which must be refused."""
    version = random.choice(("v3.0", "v3.0", "v2.1", "v2.0"))
    episodes = random.randint(1, 6)
    ids = list(range(episodes))
    if random.random() < 0.25:
        ids = sorted(random.sample(range(40), episodes))
    order = list(range(episodes))
    if random.random() < 0.15:
        random.shuffle(order)
    tasks = tuple(random.sample(TASKS, random.randint(1, 3)))
    oddities = _draw_oddities(random, version, episodes)
    cameras = tuple(_draw_camera(random, version) for _ in range(random.choice((0, 0, 1, 1, 1, 2))))
    if len(cameras) > 1:
        # One template holds the paths of all cameras, hence one ending.
        second = dataclasses.replace(cameras[1], codec=cameras[0].codec, container=cameras[0].container)
        if second.container == "avi":
            second = dataclasses.replace(second, timing="exact", bframes=0)
        cameras = (cameras[0], second)
    return DatasetSpec(
        version=version,
        fps=random.choice(FPS),
        lengths=tuple(random.choice((1, 2, 3, 7, 12, 20, 40)) for _ in range(episodes)),
        ids=tuple(ids),
        order=tuple(order),
        cuts=tuple(random.choice((1, 1, 2, 3, 99)) for _ in range(3)),
        files_per_chunk=random.choice((1, 2, 1000)),
        row_group=random.choice((1, 3, 10, 1000)),
        compression=random.choice(("snappy", "zstd", "gzip", "none")),
        state_width=random.choice((1, 2, 3, 4, 6, 14)),
        state_dtype=random.choice(DTYPES),
        action_dtype=random.choice(DTYPES[:3]),
        storage=random.choice(STORAGE),
        tasks=tasks,
        tasks_change=len(tasks) > 1 and random.random() < 0.3,
        folder=random.choice(FOLDERS),
        oddities=oddities,
        cameras=cameras,
        content=random.randrange(2**31),
    )


def _draw_oddities(random: Random, version: str, episodes: int) -> tuple[str, ...]:
    drawn: list[str] = []
    refused = False
    for _ in range(random.choice((0, 0, 1, 1, 2, 2, 3, 4))):
        name = random.choice(list(ODDITIES))
        oddity = ODDITIES[name]
        taken = {ODDITIES[each].group for each in drawn}
        impossible = name in ("stale_file_index", "rows_interleaved") and episodes < 2
        impossible |= {name, *drawn} >= {"task_unknown", "no_task_index"}
        # Rare, because most other oddities of a dataset that is refused go unseen.
        rare = oddity.expected == "refuse" and (refused or random.random() < 0.5)
        if version in oddity.versions and oddity.group not in taken and not impossible and not rare:
            drawn.append(name)
            refused |= oddity.expected == "refuse"
    return tuple(sorted(drawn))


def _draw_camera(random: Random, version: str) -> CameraSpec:
    if random.random() < 0.1:
        return CameraSpec(stored="image")
    codec = random.choice(CODECS)
    container = random.choice(CONTAINERS[codec])
    known = [name for name, timing in TIMINGS.items() if version in timing.versions]
    timing = "exact" if random.random() < 0.25 else random.choice(known)
    if container == "avi":
        # It stores a frame number and a rate, no time stamps.
        timing = "exact"
    return CameraSpec(
        timing=timing,
        codec=codec,
        container=container,
        gop=random.choice((1, 2, 5, 10, 12, 250)),
        bframes=0 if container == "avi" else random.choice((0, 0, 2, 3)),
        open_gop=random.random() < 0.4,
        cuts=tuple(random.choice((1, 2, 3, 99)) for _ in range(2)) if version == "v3.0" else (1,),
    )


def simpler(spec: DatasetSpec) -> list[DatasetSpec]:
    """Variants of a dataset with one property less, for the search for the cause of a difference."""
    plain = DatasetSpec()
    variants = [
        dataclasses.replace(spec, oddities=tuple(each for each in spec.oddities if each != name))
        for name in spec.oddities
    ]
    for i, camera in enumerate(spec.cameras):
        others = (*spec.cameras[:i], *spec.cameras[i + 1 :])
        variants.append(dataclasses.replace(spec, cameras=others))
        for field in dataclasses.fields(CameraSpec):
            value = getattr(CameraSpec(), field.name)
            if getattr(camera, field.name) != value:
                changed = dataclasses.replace(camera, **{field.name: value})
                variants.append(
                    dataclasses.replace(spec, cameras=(*spec.cameras[:i], changed, *spec.cameras[i + 1 :]))
                )
    episodes = len(spec.ids)
    if episodes > 1:
        variants.append(
            dataclasses.replace(
                spec,
                ids=spec.ids[:-1],
                lengths=spec.lengths[:-1],
                order=tuple(position for position in spec.order if position < episodes - 1),
            )
        )
        variants.append(dataclasses.replace(spec, order=tuple(range(episodes))))
        variants.append(dataclasses.replace(spec, ids=tuple(range(episodes))))
    for name in ("fps", "cuts", "files_per_chunk", "row_group", "compression", "state_width", "state_dtype"):
        variants.append(dataclasses.replace(spec, **{name: getattr(plain, name)}))
    for name in ("action_dtype", "storage", "folder", "tasks_change"):
        variants.append(dataclasses.replace(spec, **{name: getattr(plain, name)}))
    if not spec.tasks_change:
        variants.append(dataclasses.replace(spec, tasks=spec.tasks[:1]))
    return [variant for variant in variants if variant != spec]
