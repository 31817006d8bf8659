"""Images of cameras: frames of videos and images stored in the tables, decoded on demand."""

from hf_ptr.data.video.decoding import Clip, FrameReader, OpenedFile, VideoClip, VideoHeader, video_header
from hf_ptr.data.video.placement import VideoFile

__all__ = ["Clip", "FrameReader", "OpenedFile", "VideoClip", "VideoFile", "VideoHeader", "video_header"]
