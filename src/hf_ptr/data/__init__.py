"""Robot datasets: episodes on disk, their tables in memory, and action chunks for training. Independent of models."""

from typing import TYPE_CHECKING

from hf_ptr.utils.lazy_modules import lazy_attributes

if TYPE_CHECKING:
    from hf_ptr.data.chunks import CameraImages, ChunkBatch, ChunkDataset
    from hf_ptr.data.corruption import CorruptionTruth, corrupt, write_corrupted
    from hf_ptr.data.episodes import EpisodeTable, data_digest
    from hf_ptr.data.lerobot.reader import read_dataset
    from hf_ptr.data.lerobot.validation import validate_dataset
    from hf_ptr.data.lerobot.writer import DatasetWriter, write_table
    from hf_ptr.data.mixture.dataset import MixtureDataset
    from hf_ptr.data.samplers import SegmentBatches, WeightedChunkSampler
    from hf_ptr.data.score_file import read_weights
    from hf_ptr.data.statistics import feature_statistics, normalization

_HOMES = {
    "chunks": ("CameraImages", "ChunkBatch", "ChunkDataset"),
    "corruption": ("CorruptionTruth", "corrupt", "write_corrupted"),
    "episodes": ("EpisodeTable", "data_digest"),
    "lerobot.reader": ("read_dataset",),
    "lerobot.validation": ("validate_dataset",),
    "lerobot.writer": ("DatasetWriter", "write_table"),
    "mixture.dataset": ("MixtureDataset",),
    "samplers": ("SegmentBatches", "WeightedChunkSampler"),
    "score_file": ("read_weights",),
    "statistics": ("feature_statistics", "normalization"),
}
__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)

__all__ = [
    "CameraImages",
    "ChunkBatch",
    "ChunkDataset",
    "CorruptionTruth",
    "DatasetWriter",
    "EpisodeTable",
    "MixtureDataset",
    "SegmentBatches",
    "WeightedChunkSampler",
    "corrupt",
    "data_digest",
    "feature_statistics",
    "normalization",
    "read_dataset",
    "read_weights",
    "validate_dataset",
    "write_corrupted",
    "write_table",
]
