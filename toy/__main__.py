"""Films and their annotations, as files: python -m toy --out FOLDER --n 20 --seed 1"""
if __name__ == "__main__":                               # before all that is to be imported
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import argparse
import signal
import sys

import imageio.v3 as iio
from tqdm import tqdm

from parts.files import check_folder, in_words, replacing, write_json
from parts.options import LineParser, a_path, check_bounds
from toy.dialogues import sample


def write_film(path, clip, size, fps):
    with replacing(path) as partial, iio.imopen(partial, "w", plugin="pyav",
                                                container="mp4") as film:
        film.init_video_stream("h264", fps=fps)
        for k in range(clip.seconds * fps):
            film.write_frame(clip.frame(k / fps, size))


def main():
    parser = LineParser("toy", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=a_path, required=True, help="folder to write to")
    for flag, default, text in (("--n", 20, "number of films"), ("--seed", 1, "which films"),
                                ("--size", 256, "side of the picture in pixels, even, 32 or more"),
                                ("--fps", 10, "frames a second of the films")):
        parser.add_argument(flag, type=int, default=default, help=f"{text} ({default})")
    args = parser.parse_args()
    check_bounds(parser, args, {"n": (1, 10**6), "fps": (1, 240), "size": (32, 4096)})
    if args.size % 2:
        parser.error(f"--size {args.size}: an even number is wanted")
    if (args.out / "raw.json").exists():                    # it may have been mended by hand
        parser.error(f"--out {args.out}: there is a raw.json already, name another folder")
    taken = [name for i in range(args.n) if (args.out / (name := f"{i:06d}.mp4")).exists()]
    if taken:                                               # by whomever
        parser.error(f"--out {args.out}: there is a {taken[0]} already, name another folder")
    records = []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        check_folder("--out", args.out)
        args.out.mkdir(parents=True, exist_ok=True)
        for i in tqdm(range(args.n), unit="film"):
            clip, record = sample(args.seed, i)
            write_film(args.out / record["video_name"], clip, args.size, args.fps)
            records.append(record)
        write_json(args.out / "raw.json", records)
    except (ValueError, OSError) as error:
        parser.error(in_words(error))
    except KeyboardInterrupt:
        print(f"toy: interrupted; {args.out} holds {len(records)} of {args.n} films, and no "
              "raw.json", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
