"""What a media file holds, and whether it may be opened at all: allow-listed formats, limits, typed reasons."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.stream import Disposition

from mmtraits.errors import MediaError

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv", ".wmv"),
        *(".asf", ".3gp", ".3g2", ".ogv", ".mxf"),
    }
)
AUDIO_SUFFIXES = frozenset(
    {
        *(".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff", ".amr", ".au"),
        *(".caf", ".mka", ".ac3"),
    }
)
MEDIA_SUFFIXES = VIDEO_SUFFIXES | AUDIO_SUFFIXES

# Demuxers by FFmpeg's short names. Play lists and scripts (hls, concat, dash, sdp, image2) are absent on purpose: they
# make the reader open other files and addresses.
ALLOWED_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,mpegtsraw,h264,hevc,m4v,mjpeg,flv,asf,ogg,mxf,"
    "wav,w64,mp3,aac,flac,aiff,amr,amrnb,amrwb,au,caf,ac3,eac3,wv"
)
# Decoders that recordings need; the other 400 are for games, screens and still pictures, and less looked after.
_VIDEO_CODECS = (
    "av1,dnxhd,dvvideo,ffv1,flv,h263,h263p,h264,hevc,huffyuv,libdav1d,libvpx,libvpx-vp9,mjpeg,mpeg1video,mpeg2video,"
    "mpeg4,msmpeg4,msmpeg4v1,msmpeg4v2,prores,rawvideo,theora,utvideo,vc1,vp6f,vp8,vp9,vvc,wmv1,wmv2,wmv3"
)
_AUDIO_CODECS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,dca,eac3,flac,g722,g726,gsm,gsm_ms,"
    "libopencore_amrnb,libopencore_amrwb,libopus,mp1float,mp2,mp2float,mp3,mp3float,nellymoser,opus,speex,truehd,vorbis,"
    "wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice"
)
_PCM = ",".join(sorted(name for name in av.codecs_available if name.startswith("pcm_")))
ALLOWED_CODECS = f"{_VIDEO_CODECS},{_AUDIO_CODECS},{_PCM}"
MAX_PIXELS = 8192 * 4352  # of one frame; DCI 8K passes

# Between these rates a declared duration is believed; outside them the packets are counted, which is cheap there.
_PLAUSIBLE_BITS_PER_S = (8e3, 4e8)
_LONGEST_GAP_S = 600.0
_ROUNDING_S = 0.01
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+[:,]", re.IGNORECASE)  # http://x, concat:a|b, subfile,,start,0
_SCRIPTS = (b"#extm3u", b"ffconcat", b"v=0", b"<?xml", b"<mpd", b"<smil", b"<asx", b"<smoothstreaming", b"[playlist]")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a clip may cost. Beyond a limit it is read up to there, or that part of it not at all; a reason says so.

    max_duration_s: of the stretch that is asked for, None = any (`too_long`). max_pixels: of one frame (`too_large`).
    max_transcript_bytes: of a transcript (`text_truncated`). min_decoded: share of its declared length; a clip of which
    less is there is not scored at all.
    """

    max_duration_s: float | None = None
    max_pixels: int = MAX_PIXELS
    max_transcript_bytes: int = 8_000_000
    min_decoded: float = 0.0


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What a container declares. Times are in seconds from its first time stamp, `start_s`, which need not be 0.

    width_px and height_px are those of the picture as shown: rotated, with square pixels. rotation_deg: how far the
    stored picture is turned counter-clockwise to be shown. fps is the average; frames come at their own times.
    """

    format: str
    duration_s: float
    start_s: float = 0.0
    has_video: bool = False
    has_audio: bool = False
    width_px: int = 0
    height_px: int = 0
    rotation_deg: int = 0
    fps: float = 0.0
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0
    channels: int = 0


def probe(path: Path) -> MediaInfo:
    """Read the facts of a media file; decodes at most its first frames.

    Raises MediaError: unreadable_container, truncated_no_index, format_not_allowed, and no_modality where the file
    holds neither video nor sound.
    """
    with opened(path) as media:
        info, rotation = media.info, _rotation(media)
    size = (info.height_px, info.width_px) if rotation % 180 == 90 else (info.width_px, info.height_px)
    return replace(info, rotation_deg=rotation, width_px=size[0], height_px=size[1])


class Media(NamedTuple):
    """An open media file: its PyAV container and what that declares; the rotation is not known yet (0)."""

    path: Path
    container: Any
    info: MediaInfo
    max_pixels: int = MAX_PIXELS


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Media]:
    """Open a file of an allowed format; raises MediaError as `probe` does. `max_pixels`: of a frame to be decoded."""
    with _opened(path) as container:
        yield Media(path, container, _described(container, path), max_pixels)


@contextmanager
def _opened(path: Path, codecs: str = ALLOWED_CODECS) -> Iterator[Any]:
    if (found := _no_file(path)) is not None:
        raise MediaError(*found)
    try:
        # The protocol prefix keeps names such as `concat:a|b` or `http:x` from being more than a file's name.
        container = av.open(
            f"file:{path}",
            options={
                "format_whitelist": ALLOWED_FORMATS,
                "codec_whitelist": codecs,
                "protocol_whitelist": "file",
                "max_pixels": str(MAX_PIXELS),
            },
            metadata_errors="replace",
        )
    except Exception as error:  # the demuxers raise more than FFmpegError on hostile headers
        raise _open_error(path, error) from error
    try:
        yield container
    finally:
        container.close()


def video_stream(container: Any) -> Any | None:
    """FFmpeg's best video stream that is no cover picture, or None."""
    best = container.streams.best("video")
    if best is None or not best.disposition & Disposition.attached_pic:
        return best
    moving = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
    return next(moving, None)


def audio_stream(container: Any) -> Any | None:
    """FFmpeg's best audio stream, or None."""
    return container.streams.best("audio")


def display_size(width: int, height: int, aspect: Any, rotation_deg: int) -> tuple[int, int]:
    """Width and height in pixels of a stored picture as it is shown: with square pixels, then turned."""
    if aspect and 0.25 <= aspect <= 4 and aspect != 1:
        width = max(1, round(width * float(aspect)))
    return (height, width) if rotation_deg % 180 == 90 else (width, height)


def limit(stream: Any, max_pixels: int = MAX_PIXELS) -> None:
    """Bound a decoder before its first packet: an allowed one, one thread, frames of at most `max_pixels`.

    Processes share the cores; decoding with frame threads hangs when it is left early.
    """
    stream.codec_context.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    options = {"max_pixels": str(max_pixels)} if stream.type == "video" else {}
    stream.codec_context.options = {"codec_whitelist": ALLOWED_CODECS, **options}


def quarter_turns(rotation_deg: int) -> int:
    """A rotation in degrees as counter-clockwise quarter turns, 0 to 3."""
    return round(rotation_deg / 90) % 4


def _described(container: Any, path: Path) -> MediaInfo:
    video, audio = video_stream(container), audio_stream(container)
    if video is None and audio is None and _lacks_index(path):
        raise _no_index(path)
    if video is None and audio is None:
        raise MediaError("no_modality", f"{path}: holds neither video nor sound; expected at least one of them")
    start_s = (container.start_time or 0) / av.time_base
    facts: dict[str, Any] = {} if video is None else _video_facts(video, path)
    if audio is not None and audio.codec_context is not None:
        context = audio.codec_context
        facts |= {"audio_codec": context.name, "sample_rate": context.sample_rate, "channels": context.channels}
    return MediaInfo(
        format=container.format.name,
        duration_s=_duration_s(container, video, audio, start_s, path),
        start_s=start_s,
        has_video=video is not None,
        has_audio=audio is not None,
        **facts,
    )


def _video_facts(video: Any, path: Path) -> dict[str, Any]:
    context = video.codec_context
    if context is None:
        return {}
    stored = (context.width, context.height)
    if not all(stored):  # a decoder refused it, or FFmpeg forgot a size over the limit
        stored = _declared_size(path, video.index)
    width, height = display_size(*stored, video.sample_aspect_ratio, 0)
    rate = video.average_rate or video.guessed_rate
    return {
        "width_px": width,
        "height_px": height,
        "fps": float(rate) if rate else 0.0,
        "video_codec": context.name,
    }


def _declared_size(path: Path, index: int) -> tuple[int, int]:
    """What the container alone says of a video stream's width and height in pixels; no decoder is opened."""
    with _opened(path, codecs="none") as container:
        context = container.streams[index].codec_context
        return (context.width, context.height) if context is not None else (0, 0)


def _rotation(media: Media) -> int:
    """Counter-clockwise degrees; PyAV shows the display matrix on frames only, so the first one is decoded."""
    video = video_stream(media.container)
    if video is None or video.codec_context is None or media.info.width_px * media.info.height_px > MAX_PIXELS:
        return 0
    limit(video)
    try:
        return 90 * quarter_turns(next((frame.rotation for frame in media.container.decode(video)), 0))
    except Exception as error:  # a picture that cannot be decoded has no rotation
        _log.debug("rotation unknown: %s", error)
        return 0


def _duration_s(container: Any, video: Any, audio: Any, start_s: float, path: Path) -> float:
    """From the container's first time stamp to the end of the longer of the two streams."""
    declared = max((stream_end_s(stream, start_s) for stream in (video, audio) if stream is not None), default=0.0)
    if declared <= 0 and start_s <= _ROUNDING_S:  # Matroska counts its own duration from 0, not from its first frame
        declared = (container.duration or 0) / av.time_base
    slowest, fastest = _PLAUSIBLE_BITS_PER_S
    if declared > 0 and slowest <= 8 * path.stat().st_size / declared <= fastest:
        return declared
    return _counted_duration_s(path, start_s)


def stream_end_s(stream: Any, start_s: float) -> float:
    """Declared end of a stream in seconds from the container's first time stamp; 0 where it declares none."""
    if stream.duration is None:
        return 0.0
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start_s


def _counted_duration_s(path: Path, start_s: float) -> float:
    """The duration by the time stamps of the packets, for containers that declare none or an absurd one."""
    end_s = start_s
    with _opened(path) as container:
        streams = [stream for stream in (video_stream(container), audio_stream(container)) if stream is not None]
        try:
            for packet in container.demux(streams):
                packet_end_s = _packet_end_s(packet, end_s, stamped=len(streams) > 1)
                if end_s < packet_end_s < end_s + _LONGEST_GAP_S:  # beyond it the time stamp is damaged
                    end_s = packet_end_s
        except Exception as error:  # the end of what is readable is the end
            _log.debug("%s: stopped counting packets: %s", path, error)
    return end_s - start_s


def _packet_end_s(packet: Any, before_s: float, *, stamped: bool) -> float:
    """Where a packet ends; one of a bare stream without time stamps follows the one before it."""
    if not packet.time_base:
        return before_s
    length_s = float((packet.duration or 0) * packet.time_base)
    if packet.pts is not None:
        return float(packet.pts * packet.time_base) + length_s
    return before_s if stamped else before_s + length_s


# ---------------------------------------------------------------------------------------------------- errors


def _no_file(path: Path) -> tuple[str, str] | None:
    """The reason and the message where a path names no regular file."""
    try:
        if path.is_file():
            return None
        found = "no regular file" if path.exists() else "no such file"
    except OSError as error:
        found = str(error.strerror)
    if any(_ADDRESS.match(part) for part in path.parts):
        return "format_not_allowed", f"{path}: {found}, and addresses are not followed; expected a media file"
    return "unreadable_container", f"{path}: {found}; expected a media file"


def _open_error(path: Path, error: Exception) -> MediaError:
    if isinstance(error, MemoryError | av.error.MemoryError):
        return MediaError(
            "out_of_memory", f"{path}: opening it takes more memory than there is; the file may be damaged"
        )
    try:
        if isinstance(error, av.error.ArgumentError) or _is_script(path):
            found = "a play list, script or unusual format"
            return MediaError("format_not_allowed", f"{path}: {found}; expected a media file")
        if _lacks_index(path):
            return _no_index(path)
    except OSError as failed:  # no permission, a broken disk, a special file that looks like a regular one
        error = failed
    return MediaError("unreadable_container", f"{path}: not readable as media ({_told(error)}); expected a media file")


def _no_index(path: Path) -> MediaError:
    return MediaError("truncated_no_index", f"{path}: cut off before its index (moov) ends; copy or record it again")


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_script(path: Path) -> bool:
    """Whether a file is text that names other files or addresses; FFmpeg knows some of it by the suffix alone."""
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith(_SCRIPTS)


def _lacks_index(path: Path) -> bool:
    """Whether a file is an MP4 or QuickTime whose index was never written or was cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position, first = 0, True
        while position + 8 <= size:
            file.seek(position)
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if first and kind not in (b"ftyp", b"wide", b"mdat", b"free", b"skip"):
                return False
            first = False
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            if kind == b"moov":
                return position + length > size
            if length < 8:
                return kind == b"mdat"
            position += length
    return not first
