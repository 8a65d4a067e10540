"""The captioned video of a stream, with its sound; and all that people look at, by one import.

    captioned_video("in.mp4", turns, "out.mp4")     captioned_video("in.mp4", turns, "out.gif")
    write_srt(turns, "out.srt")                     write_vtt(turns, "out.vtt")
    timeline(turns, "out.png")

`turns` is the list of what `infer.stream` yields: objects with start and end (seconds), state
("silence", "standby" or "response"), probs (of those three, in that order), text (the answer) and
question (asked in this turn, or None). A turn fills one second. Every file is written beside its
place and renamed: an interrupted run leaves the old file or the new one, whole.
"""
import io
import itertools
import os
from bisect import bisect_right
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw

from parts import video
from parts.decision import STATES
from parts.drawing import COLOURS, FAINT, INK, PAPER, TRACK, font_for, strip, told, wrap
from parts.files import replacing
from parts.pictures import upright
from parts.subtitles import clock, write_srt, write_vtt  # noqa: F401
from parts.timeline import timeline  # noqa: F401

# Of a file's ending, the name that FFmpeg has for its container. "gif" is written by Pillow.
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm",
           ".avi": "avi", ".ts": "mpegts", ".mpg": "mpeg", ".flv": "flv", ".wmv": "asf",
           ".asf": "asf", ".3gp": "3gp", ".nut": "nut", ".gif": "gif"}
ENCODERS = {"h264": ("libx264", {"crf": "20"}),
            "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "30"})}
ENCODE_AS = {"opus": "libopus", "vorbis": "libopus", "amr_nb": "aac"}       # sounds: what PyAV has
LEAST, MOST = 320, 2160     # pixels: the panel's width, and the longest side of the picture
TICK = 0.5                  # seconds after which the panel is drawn anew where the picture stays
GAP = 0.1                   # seconds of sound that may be wanting before silence stands for them
LAST = 1 / 30               # seconds that a player shows the last frame of a file for
GRID = 25                   # frames a second in containers that have but one rate
CLOCK = Fraction(1, 90000)  # seconds; of all others


# ---- The panel

class Panel:
    """What stands under the picture: state and clock, question, answer, the strip of states.

    As high as the longest question and answer need, at most three and six lines. A question stays
    until the next; so does an answer, in grey when its time as a subtitle is over."""

    def __init__(self, turns, width, size):
        self.turns, self.width, self.size, self.line = turns, width, size, round(1.3 * size)
        self.start, self.seconds, kinds = told(turns)
        self.font = font_for([text for texts in kinds for *_, text in texts], size)
        room = width - 4 * size  # margins, and a letter before the text
        self.texts = [[(*times, wrap(text, self.font, room, most)) for *times, text in texts]
                      for texts, most in zip(kinds, (3, 6))]
        self.lines = [max([len(lines) for *_, lines in texts], default=0) for texts in self.texts]
        self.strip = strip(turns, self.start, self.seconds, width - 2 * size, round(1.5 * size))
        self.height = self.line * (1 + sum(self.lines)) + self.strip.height + round(3.6 * size)

    def draw(self, seconds):
        """The panel at `seconds` of the stream: RGB image (width, height)."""
        image, size = Image.new("RGB", (self.width, self.height), PAPER), self.size
        draw, known = ImageDraw.Draw(image), self.start
        for turn in begun(self.turns, seconds, lambda turn: turn.start):
            colour, known = COLOURS[STATES.index(turn.state)], turn.end
            draw.rectangle((size, size + 1, 2 * size - 1, 2 * size), colour)
            draw.text((3 * size, 2 * size), turn.state, INK, self.font, anchor="ls")
        draw.text((self.width - size, 2 * size), clock(seconds), FAINT, self.font, anchor="rs")
        y = size + self.line + size // 2
        for letter, texts, most in zip("QA", self.texts, self.lines):
            for _, end, lines in begun(texts, seconds, lambda text: text[0]):
                draw.text((size, y), letter, FAINT, self.font)
                for i, line in enumerate(lines):
                    ink = INK if seconds < end else FAINT
                    draw.text((3 * size, y + i * self.line), line, ink, self.font)
            y += self.line * most
        bottom = self.height - size
        top = bottom - self.strip.height
        known, now = [round(np.clip((time - self.start) / self.seconds, 0, 1) * self.strip.width)
                      for time in (known, seconds)]
        draw.rectangle((size, top, self.width - size - 1, bottom - 1), TRACK)
        image.paste(self.strip.crop((0, 0, known, self.strip.height)), (size, top))
        draw.rectangle((size + now - 1, top - size // 4, size + now, bottom + size // 4), INK)
        return image


def begun(items, seconds, start):
    """[the last of `items` that has begun], or []; start(item) is when."""
    n = bisect_right(items, seconds, key=start)
    return items[n - 1:n] if n else []


# ---- The pictures, on a clock of their own

def moments(pictures, end=None):
    """(seconds, image), ... -> the same in order, with more of the same picture where it stays for
    longer than TICK, and black before the first; last (end, None).

    pictures may end with (end, None); else the last picture lasts until `end`, or for LAST."""
    at, shown = 0.0, None
    for start, image in itertools.chain(pictures, [(None, None)]):
        if image is None and start is None:         # the iterable had no end of its own
            start = max(at + LAST, end or 0)
        if shown is None and image is not None:
            shown = np.zeros_like(np.asarray(image)) if start > TICK else image
            yield 0.0, shown
        if shown is not None:
            while (tick := (at // TICK + 1) * TICK) < start - LAST:
                at = tick
                yield at, shown
        if image is None:
            if shown is not None:
                yield max(start, at), None
            return
        if start > at:                              # two at one time: a player shows one
            at, shown = start, image
            yield at, shown


def compose(moments, turns, source):
    """(seconds, image), ..., (end, None) -> (seconds, canvas): the picture over the panel, of even
    sizes as codecs want them; last (end, None).

    A small picture is enlarged by a whole number to LEAST pixels' width, a large one made smaller;
    later ones of another shape stand in the first one's place, with black beside them."""
    panel = None
    for seconds, image in moments:
        if image is None:
            yield seconds, None
            break
        if isinstance(image, Image.Image):
            image = upright(image)
        image = Image.fromarray(np.asarray(image)).convert("RGB")
        if panel is None:
            scale = max(1, min(-(-LEAST // image.width), MOST // image.height))
            scale = min(scale, MOST / max(image.size))
            box = [max(1, round(side * scale)) for side in image.size]
            width = (max(LEAST, box[0]) + 1) // 2 * 2
            panel = Panel(turns, width, max(15, round((box[0] * box[1]) ** 0.5 / 28)))
        canvas = Image.new("RGB", (width, (box[1] + panel.height + 1) // 2 * 2), PAPER)
        canvas.paste(placed(image, box), ((width - box[0]) // 2 if box[0] < LEAST else 0, 0))
        canvas.paste(panel.draw(seconds), (0, box[1]))
        yield seconds, canvas
    if panel is None:
        raise ValueError(f"{source}: no frame to render")


def placed(image, box):
    """An image at the size `box`, in its own shape: black beside or above it where that differs."""
    scale = min(box[0] / image.width, box[1] / image.height)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC)
    if all(abs(side - most) <= 1 for side, most in zip(size, box)):
        return image.resize(box, Image.Resampling.BICUBIC)
    whole = Image.new("RGB", box)
    whole.paste(image, ((box[0] - size[0]) // 2, (box[1] - size[1]) // 2))
    return whole


def shown(source):
    """(seconds, uint8 (H, W, 3)) of every picture of a file, and last (end, None). One that is
    damaged leaves the one before it on the screen, as in the frames that were streamed."""
    for start, draw in video.pictures(source):
        try:
            image = draw and draw()
        except ValueError:
            continue
        yield start, image


# ---- The file

def form_of(path):
    """The container that a file's ending names; ValueError for one that is none."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        raise ValueError(f"{path}: a captioned video (--render) ends in {', '.join(FORMATS)}")
    return FORMATS[ending]


def captioned_video(source, turns, path, sound=True):
    """Writes `source` with its answers, the open question and the states to `path`: all pictures at
    their own times, with the film's sound; a .gif has at most 10 a second (in memory: minutes, not
    hours) and no sound.

    source: a video file, or an iterable of (seconds, PIL image or uint8 array (H, W, 3)).
    Returns the number of frames. ValueError: no frame, an ending that names no container, or sound
    that this one cannot hold."""
    form, turns = form_of(path), list(turns)
    named = isinstance(source, (str, os.PathLike))
    pictures = moments(shown(source) if named else source, turns[-1].end if turns else None)
    if form == "gif":
        tenths = itertools.groupby(pictures, lambda moment: (int(10 * moment[0] + 1e-6),
                                                             moment[1] is None))
        pictures = (next(tenth) for _, tenth in tenths)
    canvases = compose(pictures, turns, source)
    with replacing(path) as part:
        if form == "gif":
            return write_gif(canvases, part)
        film = source if sound and named and not video.is_image(source) else None
        return write_film(canvases, part, form, film)


def write_film(canvases, path, form, film):
    """Frames keep their own times, where the container can; colours are tagged as BT.709. film:
    whose sound is to be copied, or None. Returns the number of frames."""
    options = {"movflags": "faststart"} if form in ("mp4", "mov") else {}
    with av.open(str(path), "w", format=form, options=options) as container:
        sound = Sound(film, container) if film else None
        steady = not container.format.flags & av.format.Flags.variable_fps.value
        stream, tagged = encoder(container, steady)
        count, written = 0, -1
        for seconds, canvas in finished(on_grid(canvases) if steady else canvases):
            if count == 0:
                stream.width, stream.height = canvas.size
            frame = av.VideoFrame.from_image(canvas).reformat(
                format="yuv420p", dst_colorspace="ITU709" if tagged else "ITU601",
                dst_color_range="MPEG")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(seconds / frame.time_base)
            if frame.pts > written:
                written, count = frame.pts, count + 1
                mux(container, stream.encode(frame))
            if sound:
                sound.copy_until(seconds)
        mux(container, stream.encode(None))
        if sound:
            sound.copy_until(float("inf"))
    return count


def mux(container, packets):
    for packet in packets:          # the last one's length counts; of others, their distance does
        packet.duration = round(LAST / packet.time_base)
        container.mux(packet)


def encoder(container, steady):
    """-> (a video stream of the container, whether its file says which colours it has)."""
    known = container.supported_codecs | ({"h264"} if container.format.name == "mpegts" else set())
    codec = "h264" if "h264" in known else container.default_video_codec
    name, options = ENCODERS.get(codec, (codec, {}))
    if steady and codec == "h264":
        options = {**options, "bf": "0"}            # such a container stores no times to reorder by
    stream = container.add_stream(name, rate=GRID if steady else 30, options=options)
    context = stream.codec_context
    stream.pix_fmt, context.time_base = "yuv420p", Fraction(1, GRID) if steady else CLOCK
    if codec not in ENCODERS:
        stream.bit_rate = 8_000_000
        return stream, False
    context.colorspace = context.color_primaries = context.color_trc = 1        # BT.709
    context.color_range = 1                                                     # limited
    return stream, True


def finished(canvases):
    """The same, without the end: the last canvas again, where a player shows it until then."""
    shown = None
    for seconds, canvas in canvases:
        if canvas is None:
            yield seconds - LAST, shown
            return
        shown = canvas
        yield seconds, canvas


def on_grid(canvases):
    """The same at GRID frames a second, each canvas again until the next."""
    k, shown = 0, None
    for seconds, canvas in canvases:
        while shown is not None and k / GRID < seconds - 1e-6:
            yield k / GRID, shown
            k += 1
        shown = canvas


def takes(stream, form):
    """Whether a container takes a stream as it is: a header is written, in memory."""
    if form in ("flv", "mp4") and stream.codec_context.name.startswith("pcm_"):
        return False                    # one ends the process over it, one refuses it at the end
    try:
        with av.open(io.BytesIO(), "w", format=form) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        return True
    except (av.FFmpegError, ValueError):
        return False


class Sound:
    """The sound of a film, copied into another container; encoded anew where it cannot hold it."""

    def __init__(self, film, into):
        self.film, self.into, self.out, self.packets, self.next = film, into, None, iter(()), None
        self.container, self.file = video.opened(film)
        self.stream = self.container.streams.best("audio")
        if self.stream is None or not self.stream.codec_context:
            return
        codec = self.stream.codec_context.codec.canonical_name
        self.copied = codec in into.supported_codecs and takes(self.stream, into.format.name)
        try:
            if self.copied:
                self.out = into.add_stream_from_template(self.stream)
            else:
                name = into.default_audio_codec
                self.out = into.add_stream(ENCODE_AS.get(name, name), rate=48000)
                self.out.bit_rate = 128_000
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(f"the sound of {film} ({codec}) does not fit into "
                             f"{into.format.name}: leave it out, or write a .mkv") from error
        start = self.container.start_time
        self.clock = video.Clock((start or 0) / 1e6, 0.02, video.LONGEST)
        self.packets, self.last, self.sounded = self.read(), -1, 0.0     # seconds encoded anew
        self.first = self.latest = None                     # forms of frames, see alike

    def read(self):
        """(seconds, packets of the new container)."""
        for packet in self.container.demux(self.stream):
            length = float(packet.duration * packet.time_base) if packet.duration else None
            if packet.pts is None and packet.size == 0:
                break
            when = self.clock(None if packet.pts is None
                              else float(packet.pts * packet.time_base), length)
            if self.copied:
                packet.pts = packet.dts = self.last = max(round(when / packet.time_base),
                                                          self.last + 1)
                packet.stream = self.out
                yield when, [packet]
            else:
                try:
                    frames = packet.decode()
                except av.FFmpegError:                      # damaged
                    frames = []
                for frame in frames:
                    while when - self.sounded > GAP:        # what follows keeps its time
                        yield when, self.encoded(self.silence(min(1, when - self.sounded)))
                    yield when, self.encoded(frame)
        if not self.copied:
            yield self.clock.end, self.out.encode(None)

    def encoded(self, frame):
        frame.pts = None                                    # it follows the one before
        self.sounded += frame.samples / frame.sample_rate
        return sum(map(self.out.encode, self.alike(frame)), [])

    def alike(self, frame):
        """The frame in the form of the first one: an encoder takes no other, and channels change
        in the middle of a broadcast."""
        form = frame.format.name, frame.layout.name, frame.sample_rate
        self.first = self.first or form
        if form == self.first:
            return [frame]
        if form != self.latest:
            self.latest, self.resampler = form, av.AudioResampler(*self.first)
        return self.resampler.resample(frame)

    def silence(self, seconds):
        """A frame of so many seconds as the decoder gives them."""
        source = self.stream.codec_context
        frame = av.AudioFrame(source.format.name, source.layout.name,
                              max(1, round(seconds * source.rate)))
        frame.sample_rate = source.rate
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        return frame

    def copy_until(self, seconds):
        """Write what sounds up to there."""
        while self.next or (entry := next(self.packets, None)):
            when, packets = self.next or entry
            if when > seconds:
                self.next = when, packets
                return
            self.next = None
            self.into.mux(packets)


def write_gif(canvases, path):
    """One palette for all frames and no dither: what does not change costs no bytes."""
    *drawn, (end, _) = canvases
    times, images = zip(*drawn)
    some = np.concatenate(images[::-(-len(images) // 16)])
    palette = Image.fromarray(some).quantize(128)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    ends = [round(100 * time) for time in (*times, max(end, times[-1] + LAST))]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], loop=0, optimize=True,
                   duration=[10 * (b - a) for a, b in zip(ends, ends[1:])])
    return len(images)


