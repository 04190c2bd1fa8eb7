"""What is done to clips with PyAV: their first and last frame as pictures, and clips cut and joined.

It happens in a separate process, which runs this file. Equal inputs give equal bytes, so that a clip that is cut
again is the same input of a request.

Joining copies the picture, and encodes it again only where it has to. The sound is always encoded again, as one
track: an AAC track does not begin and end where its picture does, so tracks that are set one after the other would
click, and would drift away from the picture.
"""

import heapq
import json
import logging
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from prefect_xai_video.engine.apart import bound_memory, output_of
from prefect_xai_video.errors import StorageError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 4096 * 2304
MAX_MEMORY_BYTES = 2**31
FRAME_SECONDS = 60
JOIN_SECONDS = 1800
"""Limits for decoding: pixels of a frame, memory in bytes, and seconds for the ends of a clip and for a join."""

CRF, PRESET = "14", "veryfast"
"""Quality of a picture that is encoded again: not told from the original by eye, since it is shown, or continued."""

TICKS = 90_000
"""Units a second of an encoded picture: fine enough for the times of every frame rate."""

SAMPLES = 1024
"""Samples of a frame of AAC."""

_COLOURS = ("color_range", "color_primaries", "color_trc", "colorspace")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip, or a part of it.

    Attributes:
        path: Its file, an MP4.
        begin: Seconds that are cut off its beginning; negative for that many seconds that remain of its end.
        without_last: Whether its last frame is left out, since the next piece begins with it.
    """

    path: str
    begin: float = 0.0
    without_last: bool = False


def ends(path: Path) -> tuple[bytes, bytes]:
    """Draw the first frame of a video as JPEG, and the last one as PNG, in full resolution.

    Raises:
        StorageError: If the video can't be decoded.
    """
    output = _apart(["ends", str(path)], f"The frames of {path.name}", FRAME_SECONDS)
    length = int.from_bytes(output[:4])
    return output[4 : 4 + length], output[4 + length :]


def join(pieces: Sequence[Piece], target: Path) -> bool:
    """Write clips one after the other into one file.

    Returns:
        Whether the picture was copied, and not encoded again.

    Raises:
        StorageError: If they can't be joined.
    """
    described = json.dumps([asdict(piece) for piece in pieces])
    return _apart(["join", described, str(target)], f"{len(pieces)} clips", JOIN_SECONDS) == b"copied"


def _apart(arguments: Sequence[str], subject: str, seconds: float) -> bytes:
    try:
        return output_of(__file__, arguments, seconds)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().rpartition("\n")[2]
        raise StorageError(
            f"{subject} can't be read or written by PyAV: {said[:300] or type(error).__name__}.", maybe_paid=True
        ) from None


class _Part(NamedTuple):
    """A piece as it is joined: its packets that are kept, and its place. Times are exact, in seconds."""

    container: "InputContainer"
    video: "VideoStream"
    packets: "list[Packet[Any]]"
    begin: Fraction
    length: Fraction
    is_copyable: bool

    @property
    def audio(self) -> "AudioStream | None":
        return next(iter(self.container.streams.audio), None)


def _write_join(pieces: Sequence[Piece], target: str) -> str:
    """Join clips in this process; whether the picture was `copied` or `encoded`."""
    import av  # noqa: PLC0415

    with ExitStack() as stack:
        parts = [_part(stack.enter_context(_opened(piece.path)), piece) for piece in pieces]
        is_copied = all(part.is_copyable and _kind(part) == _kind(parts[0]) for part in parts)
        options = {"movflags": "faststart", "fflags": "+bitexact"}
        with av.open(target, "w", format="mp4", options=options) as output:
            pictures = _copied(output, parts) if is_copied else _encoded(output, parts)
            sounds = _sound(output, parts)
            for _, packet in heapq.merge(pictures, sounds, key=lambda timed: timed[0]):
                output.mux(packet)
    return "copied" if is_copied else "encoded"


def _opened(path: str) -> "InputContainer":
    import av  # noqa: PLC0415

    # A fixed format rules out those that refer to other files.
    container = av.open(path, "r", format="mp4", options={"max_streams": "8"})
    stream = container.streams.video[0]
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    if stream.width * stream.height > MAX_PIXELS:
        raise ValueError("the frames of the video are too large")
    return container


def _part(container: "InputContainer", piece: Piece) -> _Part:
    video = container.streams.video[0]
    tick = cast("Fraction", video.time_base)
    packets = [packet for packet in container.demux(video) if packet.pts is not None and packet.dts is not None]
    times = sorted(cast("int", packet.pts) for packet in packets)
    if not times:
        raise ValueError("the video has no frames")
    last = max(packets, key=lambda packet: cast("int", packet.pts))
    end = cast("int", last.pts) + (last.duration or (times[-1] - times[0]) // max(len(times) - 1, 1))
    # The cut is at the frame that is nearest to the wanted time.
    wanted = (times[0] if piece.begin >= 0 else end) + round(Fraction(piece.begin) / tick)
    begin = min(times, key=lambda time: abs(time - wanted))
    kept = [packet for packet in packets if cast("int", packet.pts) >= begin]
    ordered = [cast("int", packet.pts) for packet in packets]
    is_copyable = kept[0].is_keyframe and kept[0].pts == begin and len(kept) == len(packets) - packets.index(kept[0])
    if piece.without_last and len(kept) > 1:
        # Only the frame that is decoded last is surely not needed for another one.
        is_copyable = is_copyable and ordered[-1] == times[-1]
        end = times[-1]
        kept.remove(last)
    return _Part(container, video, kept, begin * tick, (end - begin) * tick, is_copyable)


def _kind(part: _Part) -> tuple[Any, ...]:
    """All that the pictures of two clips must have in common for one track without encoding them again."""
    codec = part.video.codec_context
    return codec.name, codec.width, codec.height, codec.pix_fmt, codec.extradata, part.video.time_base


def _copied(output: "OutputContainer", parts: Sequence[_Part]) -> "Iterator[tuple[float, Packet[Any]]]":
    stream = output.add_stream_from_template(parts[0].video)
    return _copies(stream, parts)


def _copies(stream: "VideoStream", parts: Sequence[_Part]) -> "Iterator[tuple[float, Packet[Any]]]":
    tick = cast("Fraction", parts[0].video.time_base)
    offset, earliest = Fraction(0), None
    for part in parts:
        shift = round((offset - part.begin) / tick)
        for packet in part.packets:
            packet.pts, dts = cast("int", packet.pts) + shift, cast("int", packet.dts) + shift
            # Decoding times must increase across the seam, too.
            packet.dts = earliest = dts if earliest is None else max(dts, earliest + 1)
            packet.stream = stream
            yield float(packet.dts * tick), packet
        offset += part.length


def _encoded(output: "OutputContainer", parts: Sequence[_Part]) -> "Iterator[tuple[float, Packet[Any]]]":
    first = parts[0].video
    # One thread, since the encoded bytes depend on the number of threads.
    options = {"preset": PRESET, "crf": CRF, "threads": "1"}
    stream = output.add_stream("libx264", rate=first.average_rate or 24, options=options)
    stream.width, stream.height, stream.pix_fmt = first.width & ~1, first.height & ~1, "yuv420p"
    stream.codec_context.time_base = Fraction(1, TICKS)
    for name in _COLOURS:
        setattr(stream.codec_context, name, getattr(first.codec_context, name))
    return _encodings(stream, parts)


def _encodings(stream: "VideoStream", parts: Sequence[_Part]) -> "Iterator[tuple[float, Packet[Any]]]":
    offset = Fraction(0)
    for part in parts:
        wanted = {packet.pts for packet in part.packets}
        shift = offset - part.begin
        part.container.seek(0)
        for frame in part.container.decode(part.video):
            if frame.pts not in wanted:
                continue
            fitting = frame.reformat(width=stream.width, height=stream.height, format="yuv420p")
            time = cast("int", frame.pts) * cast("Fraction", frame.time_base) + shift
            fitting.pts, fitting.time_base = round(time * TICKS), Fraction(1, TICKS)
            fitting.pict_type = 0
            yield from _timed(stream.encode(fitting))
        offset += part.length
    yield from _timed(stream.encode())


def _timed(packets: "Iterable[Packet[Any]]") -> "Iterator[tuple[float, Packet[Any]]]":
    for packet in packets:
        yield float(cast("int", packet.dts) * packet.time_base), packet


def _sound(output: "OutputContainer", parts: Sequence[_Part]) -> "Iterator[tuple[float, Packet[Any]]]":
    """Encode the sound of all parts as one track; a part without sound is silent."""
    first = next((part.audio for part in parts if part.audio is not None), None)
    if first is None:
        return iter(())
    layout = "mono" if first.layout.nb_channels == 1 else "stereo"
    stream = output.add_stream("aac", rate=first.rate, layout=layout, options={"b": "160k"})
    return _sounds(stream, parts)


def _sounds(stream: "AudioStream", parts: Sequence[_Part]) -> "Iterator[tuple[float, Packet[Any]]]":
    import av  # noqa: PLC0415

    waiting, written = av.AudioFifo(), 0
    offset = Fraction(0)
    for part in parts:
        samples = round((offset + part.length) * stream.rate) - round(offset * stream.rate)
        offset += part.length
        for sound in _heard(part, stream, samples):
            waiting.write(sound)
            while (block := waiting.read(SAMPLES)) is not None:
                block.pts, block.time_base, written = written, Fraction(1, stream.rate), written + block.samples
                yield from _timed(stream.encode(block))
    if (block := waiting.read(0)) is not None:
        block.pts, block.time_base = written, Fraction(1, stream.rate)
        yield from _timed(stream.encode(block))
    yield from _timed(stream.encode())


def _heard(part: _Part, stream: "AudioStream", samples: int) -> "Iterator[Any]":
    """Yield exactly so many samples of a part, from where its picture begins."""
    import av  # noqa: PLC0415

    layout, left = stream.layout.name, samples
    skipped: int | None = None
    fifo = av.AudioFifo()
    for frame in _resampled(part, layout, stream.rate):
        if skipped is None:
            time = Fraction(frame.pts or 0) * (frame.time_base or 1)
            skipped = round((part.begin - time) * stream.rate)
            if skipped < 0:
                silence = min(-skipped, left)
                left, skipped = left - silence, 0
                yield from _silence(layout, stream.rate, silence)
        frame.pts = None
        fifo.write(frame)
        if skipped and (dropped := fifo.read(min(skipped, fifo.samples))) is not None:
            skipped -= dropped.samples
        while left and not skipped and (sound := fifo.read(min(left, SAMPLES))) is not None:
            left -= sound.samples
            sound.pts = None
            yield sound
        if not left:
            return
    if not skipped and left and (sound := fifo.read(0)) is not None:
        left -= sound.samples
        sound.pts = None
        yield sound
    yield from _silence(layout, stream.rate, left)


def _resampled(part: _Part, layout: str, rate: int) -> "Iterator[Any]":
    import av  # noqa: PLC0415

    if part.audio is None:
        return
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    # A second container: the first one is read for the picture at the same time.
    with closing(av.open(part.container.name, "r", format="mp4", options={"max_streams": "8"})) as container:
        for frame in container.decode(audio=0):
            yield from resampler.resample(frame)
        yield from resampler.resample(None)


def _silence(layout: str, rate: int, samples: int) -> "Iterator[Any]":
    import av  # noqa: PLC0415

    while samples > 0:
        frame = av.AudioFrame("fltp", layout, min(samples, SAMPLES))
        frame.sample_rate = rate
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        samples -= frame.samples
        yield frame


def _draw_ends(path: str) -> bytes:
    """Draw the first and the last frame in this process."""
    with closing(_opened(path)) as container:
        stream = container.streams.video[0]
        poster = _picture(next(container.decode(stream)), "mjpeg", "yuvj420p")
        # To the last keyframe; whatever follows is decoded, and only the last frame kept.
        container.seek(max(stream.duration or 0, 1), stream=stream)
        rest = deque(container.decode(stream), maxlen=1)
        if not rest:
            raise ValueError("the last frame of the video can't be decoded")
        picture = _picture(rest[0], "png", "rgb24")
    return len(poster).to_bytes(4) + poster + picture


def _picture(frame: "VideoFrame", codec: str, pixels: str) -> bytes:
    import av  # noqa: PLC0415

    encoder = cast("VideoCodecContext", av.CodecContext.create(codec, "w"))
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, pixels
    encoder.time_base = Fraction(1, 1)
    if codec == "mjpeg":
        encoder.options = {"qscale": "3", "flags": "+qscale", "global_quality": str(3 * 118)}
    drawn = frame.reformat(format=pixels)
    drawn.pts, drawn.time_base, drawn.pict_type = 0, Fraction(1, 1), 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(drawn), *encoder.encode()])


if __name__ == "__main__":
    bound_memory(MAX_MEMORY_BYTES)
    if sys.argv[1] == "ends":
        sys.stdout.buffer.write(_draw_ends(sys.argv[2]))
    else:
        _pieces = [Piece(**piece) for piece in json.loads(sys.argv[2])]
        sys.stdout.write(_write_join(_pieces, sys.argv[3]))
