"""Episodes on disk, cut into action chunks, walked in batches. Nothing here knows a model."""

from typing import TYPE_CHECKING

from hf_ptr.utils.lazy_modules import lazy_attributes

if TYPE_CHECKING:
    from hf_ptr.data.chunks import ChunkDataset
    from hf_ptr.data.corruption import CorruptionTruth, corrupt, write_corrupted
    from hf_ptr.data.episodes import EpisodeTable
    from hf_ptr.data.lerobot.reader import read_dataset
    from hf_ptr.data.lerobot.writer import DatasetWriter, write_table
    from hf_ptr.data.mixture.dataset import MixtureDataset
    from hf_ptr.data.segments import SegmentBatches
    from hf_ptr.data.statistics import feature_statistics, normalization

_HOMES = {
    "chunks": ("ChunkDataset",),
    "corruption": ("CorruptionTruth", "corrupt", "write_corrupted"),
    "episodes": ("EpisodeTable",),
    "lerobot.reader": ("read_dataset",),
    "lerobot.writer": ("DatasetWriter", "write_table"),
    "mixture.dataset": ("MixtureDataset",),
    "segments": ("SegmentBatches",),
    "statistics": ("feature_statistics", "normalization"),
}
__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)

__all__ = [
    "ChunkDataset",
    "CorruptionTruth",
    "DatasetWriter",
    "EpisodeTable",
    "MixtureDataset",
    "SegmentBatches",
    "corrupt",
    "feature_statistics",
    "normalization",
    "read_dataset",
    "write_corrupted",
    "write_table",
]
