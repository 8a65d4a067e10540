"""Is a film's file whole? What its container says of its own size, against what is there.

Lengths in seconds are no witness: whole films state odd ones, and half a film has often none. Sizes
in bytes are, in all the containers below; MPEG streams have none, and nothing is said of them.
"""
import struct
from pathlib import Path

HEAD = 1 << 16                  # bytes of a file in which a header is looked for
ASF_FILE = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")       # the File Properties Object
MASTERS = 0x18538067, 0x1F43B675                                    # Matroska's Segment, Cluster
BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mfra", b"mdat", b"free", b"skip", b"wide", b"sidx",
         b"ssix", b"emsg", b"prft", b"pdin", b"meta", b"uuid"}


def missing(path):
    """The share of a film's file that is missing: 0.0 of a whole one, 1.0 where it ends amid a
    piece and no more is known; None where the container cannot tell."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 4096))
        if not any(file.read()):                    # room that was made for what has yet to come
            return None
        file.seek(0)
        head = file.read(HEAD)
        for starts, reader in ((b"\x1a\x45\xdf\xa3", matroska), (b"FLV", flv), (b"RIFF", riff),
                               (b"GIF8", gif), (b"\x30\x26\xb2\x75", asf)):
            if head.startswith(starts):
                return reader(file, head, size)
        return boxes(file, size) if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") else None


def beyond(end, size):
    return max(0, end - size) / end if end else 0.0


def boxes(file, size):
    """MP4 and QuickTime: boxes of (size, name), one after the other. In pieces (moof), how many
    were to come is not told."""
    at, pieces = 0, False
    while at + 8 <= size:
        file.seek(at)
        length, name, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        pieces |= name == b"moof"
        length = {0: size - at, 1: long}.get(length, length)
        if length < 8:
            return None
        at += length
    if at > size and name not in BOXES:             # bytes of another kind behind the film
        return None
    if at > size and pieces:
        return 1.0
    return beyond(at, size)


def riff(file, head, size):
    """AVI: chunks of (name, size), of which the list "movi" has the pictures. A recording that was
    never finished, or went into a pipe, states 0 or the most there is."""
    at = 12
    while at + 12 <= size:
        file.seek(at)
        name, length, kind = struct.unpack("<4sI4s", file.read(12))
        if length in (0, 0xFFFFFFFF):
            return None
        at += 8 + length + length % 2
        if name == b"LIST" and kind == b"movi":
            return beyond(at, size)
    return None


def asf(file, head, size):
    at = head.find(ASF_FILE)
    stated = int.from_bytes(head[at + 40:at + 48], "little") if at >= 0 else 0
    return beyond(stated, size) if stated else None


def flv(file, head, size):
    """FLV: tags of (kind, length, ...), 11 bytes and so many more, and four between two tags."""
    at = 13
    while at + 11 <= size:
        file.seek(at)
        tag = file.read(4)
        if tag[0] & 31 not in (8, 9, 18):
            return None
        at += 11 + int.from_bytes(tag[1:], "big") + 4
    if at < size:                                   # a few bytes, of a tag or of another kind
        return None
    return 1.0 if at > size + 4 else 0.0


def gif(file, head, size):
    """GIF: an extension or a picture is a header and blocks of (length, bytes) up to an empty one.
    A GIF that stops between two of them is as whole as one with the byte that ends it."""
    def colours(flags):
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    def byte():
        read = file.read(1)
        if not read:
            raise EOFError
        return read[0]

    file.seek(13 + colours(head[10]) if len(head) > 10 else 0)
    try:
        while kind := file.read(1):
            if kind == b"!":
                byte()
            elif kind == b",":
                file.seek(8, 1)
                file.seek(colours(byte()) + 1, 1)
            else:
                return 0.0                          # the end, or what players stop at, too
            while length := byte():
                file.seek(length, 1)
        return 0.0 if file.tell() <= size else 1.0
    except EOFError:
        return 1.0


def matroska(file, head, size):
    """Matroska and WebM: elements of (id, size), each as long as its first bit that is set says. A
    live recording leaves the sizes of its masters open: their insides are looked through."""
    at, known = 0, False
    while at < size:
        file.seek(at)
        start = file.read(12)
        id_length = 9 - start[0].bit_length()
        size_at = start[id_length:]
        if id_length > 4 or not size_at or not size_at[0]:
            return None
        length = 9 - size_at[0].bit_length()
        mask = (1 << 7 * length) - 1
        stated = int.from_bytes(size_at[:length].ljust(length, b"\0"), "big") & mask
        at += id_length + length
        if stated != mask:
            at += stated
            known |= int.from_bytes(start[:id_length], "big") == MASTERS[0]
        elif int.from_bytes(start[:id_length], "big") not in MASTERS:
            return None
    return beyond(at, size) if known or at <= size else 1.0


# ---- The judgement

# Containers that state in their head how long they are, and FFmpeg does not correct it
STATING = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "asf", "mxf"


def check_whole(path, form, end, reached, declared):
    """ValueError when over a second of the film `path` is missing.

    form: the container's name; end: seconds seen; reached: seconds up to which any stream has
    packets, declared: those that the container states (None where unknown)."""
    share = missing(path) if Path(path).is_file() else None
    stated = form in STATING and declared is not None and reached is not None
    if share == 0:
        lost = 0.0
    elif stated:
        lost = declared - reached
    else:
        lost = end * share / (1 - share) if share and share < 1 else 0.0
    if lost > 1 or share == 1:
        of = f" of {end + lost:.1f} s" if lost > 1 else ""
        raise ValueError(f"{path}: truncated: {end:.1f} s{of} are there")
