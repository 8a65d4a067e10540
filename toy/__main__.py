"""Films and their annotations, as files: python -m toy --out FOLDER --n 20 --seed 1"""
import argparse
import json
import os

import imageio.v3 as iio
from tqdm import tqdm

from toy.dialogues import sample


def main():
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder to write to")
    for flag, default, text in (("--n", 20, "number of films"), ("--seed", 1, "which films"),
                                ("--size", 256, "side of the picture in pixels, even, 32 or more"),
                                ("--fps", 10, "frames a second of the films")):
        parser.add_argument(flag, type=int, default=default, help=f"{text} ({default})")
    args = parser.parse_args()
    if args.n < 1 or args.fps < 1:
        parser.error(f"--n {args.n} and --fps {args.fps} must be 1 or more")
    if args.size < 32 or args.size % 2:
        parser.error(f"--size {args.size} must be even, and 32 or more")
    records, partial = [], os.path.join(args.out, "partial.mp4")
    try:
        os.makedirs(args.out, exist_ok=True)
        for i in tqdm(range(args.n), unit="film"):
            clip, record = sample(args.seed, i)
            with iio.imopen(partial, "w", plugin="pyav") as film:
                film.init_video_stream("h264", fps=args.fps)
                for k in range(clip.seconds * args.fps):
                    film.write_frame(clip.frame(k / args.fps, args.size))
            os.replace(partial, os.path.join(args.out, record["video_name"]))
            records.append(record)
        partial = os.path.join(args.out, "raw.json.partial")
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(records, file, indent=1)
        os.replace(partial, os.path.join(args.out, "raw.json"))
    except OSError as error:
        parser.error(f"--out {args.out}: {error.strerror}")


if __name__ == "__main__":
    main()
