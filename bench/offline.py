"""What an offline model costs in the loop, at LLaVA-OneVision's shapes with random weights.

    python -m bench.offline --shape 0.5b --dtype bfloat16

A second: one vision and one decoder forward of its frame. An asking: the question read, 16 tokens
of an answer decoded, both dropped. The window is full, which is the dearest case.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import argparse
import resource
import statistics
import sys
import time

import torch

from parts.config import DecoderConfig, StreamoConfig, VisionConfig
from parts.devices import check_device
from parts.files import check
from parts.offline import OfflineStream, Prompt
from parts.options import LineParser, check_bounds
from parts.runs import to_the_end
from parts.tokenizer import FRAME, STATES, Tokenizer
from streamo import Streamo

SEE = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
           image_size=384, patch_size=14)
QWEN2 = {"0.5b": dict(vocab_size=151936, hidden_size=896, intermediate_size=4864,
                      num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                      head_dim=64, attention_bias=True),
         "7b": dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944,
                    num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
                    head_dim=128, attention_bias=True, tie_word_embeddings=False)}
QUESTION, ANSWER = "What is the person in the picture doing now?", 16


def milliseconds(call, device):
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


@torch.inference_mode()
def measure(args):
    """Medians of one run: {what: milliseconds}, and the peak of memory in MiB."""
    tokenizer = Tokenizer.from_pretrained("assets/tiny")    # its size is not the model's: ids fit
    tokenizer.add_tokens([*STATES, FRAME])
    torch.set_default_dtype(getattr(torch, args.dtype))
    config = StreamoConfig(VisionConfig(**SEE), DecoderConfig(**QWEN2[args.shape]),
                           tokenizer.frame_id, grid=14, coarse_grid=7)
    with torch.device(args.device):
        model = Streamo(config)
        newline = torch.randn(config.decoder.hidden_size)
        bias = torch.zeros(config.decoder.vocab_size)
    torch.set_default_dtype(torch.float32)
    bias[tokenizer.id("<|im_end|>")] = -torch.inf           # every answer has all its tokens
    bias[len(tokenizer):] = -torch.inf
    prompt = Prompt(tokenizer, "<|im_start|>user\n", "\n", "<|im_end|>\n<|im_start|>assistant\n",
                    newline)
    stream = OfflineStream(model, prompt, bias, window=args.window, max_new_tokens=ANSWER)
    check(196 * (args.window + 2) < stream.capacity, f"--window {args.window}: seconds of 196 "
          f"tokens, more than the {stream.capacity} slots of the cache")
    frames = torch.randn(args.seconds, 3, 384, 384, device=args.device, dtype=newline.dtype)
    stream.held = [(second, 196) for second in range(args.window)]
    stream.cache.length += 196 * args.window                # what the slots hold does not matter
    seen, read, asked, question = [], [], [], prompt.question(QUESTION)
    for k in range(args.seconds):
        features = []
        seen.append(milliseconds(
            lambda: features.append(model.encode_frames(frames[k:k + 1])[0]), args.device))
        read.append(milliseconds(lambda: stream.watch(args.window + k, features[0]), args.device))
        asked.append(milliseconds(lambda: stream.answer(question), args.device))
    peak = torch.cuda.max_memory_allocated() >> 20 if args.device == "cuda" else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (
            20 if sys.platform == "darwin" else 10)
    return {"vision": seen, "decoder": read, "asking": asked}, peak


def main(argv=None):
    parser = LineParser("bench.offline", description=__doc__,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", choices=QWEN2, default="0.5b")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--window", type=int, default=30, help="seconds in the cache")
    add("--seconds", type=int, default=5, help="measured")
    args = parser.parse_args(argv)
    check_bounds(parser, args, {"window": (1, 3600), "seconds": (1, 3600)})
    with to_the_end("bench.offline"):
        check_device(args.device)
        times, peak = measure(args)
    print(f"{args.shape}, {args.dtype}, {args.device}, {torch.get_num_threads()} threads, "
          f"{args.window} s of 196 tokens in the cache; medians of {args.seconds}")
    for what, each in times.items():
        print(f"{what:8} {statistics.median(each):9.0f} ms   (at most {max(each):.0f})")
    print(f"memory   {peak:9} MiB at the peak")


if __name__ == "__main__":
    main()
