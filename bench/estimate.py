"""How long and how large a run of train.py would be, from configs and annotations alone.

    python train.py --estimate --preset paper --model FOLDER --data FILE --videos FOLDER
    WORLD_SIZE=8 python train.py --estimate --shard ...              as on 8 GPUs

Memory is counted. Time is measured, by steps of random weights in this shape, where this machine
can do one within a minute; else a line says why not.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import os
import random
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from data import PLAIN, Example, collate, make_item, turns_from_record
from parts.annotations import stated_seconds, task_of
from parts.attention import BLOCK
from parts.devices import in_bfloat16
from parts.files import check, counted
from parts.optimizers import layer_matrices
from parts.runs import duration, in_a_line
from parts.weights import on_meta
from streamo import Streamo
from toy.pretrain import is_made
from toy.steps import POOL
from train import Learner, choose, fit, own_start, parse, read_data, start, steps_of


def activations(o, model, batch, gpu):
    """Bytes that a micro-batch takes at its peak, on a GPU or on the CPU, by counting tensors.

    Of each token a layer keeps for its backward: what enters its two norms, in float32; what its
    matrix products read, which autocast rounds anew for each of them; queries, keys, values and
    the attention's result; the inner tensors of the MLP. The CPU also keeps the attention's
    probabilities and the result of an RMSNorm before its weight; GPU kernels make them anew.
    """
    c, eye, parts = model.config.decoder, model.config.vision, model.language_model.model
    (B, T), patches = batch["input_ids"].shape, len(batch["pixels"]) * eye.side ** 2
    half = in_bfloat16(o, gpu)
    a, learns = 2 if half else 4, o.train != "connector"    # what weights read is theirs alone

    def rounded(*modules):                          # the weights, as autocast multiplies them
        return 2 * half * sum(p.numel() for m in modules for p in m.parameters())

    token = (8 + learns * (8 + 2 * half + 8 * (not gpu))) * c.hidden_size + a * (
        2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
        + (3 + learns) * c.intermediate_size)
    patch = 16 * eye.hidden_size + a * (4 * eye.hidden_size + 2 * eye.intermediate_size)
    # on their way: the logits' float32 copy and gradient; then the gradient of the head, which
    # waits for the embedding's, if they are one matrix; then the gradients of an MLP, or of the
    # attention's scores when the tensors of its MLP are gone. (The head's rounded copy goes first.)
    logits = int((batch["labels"][:, 1:] != -100).sum()) * c.vocab_size
    head = c.vocab_size * c.hidden_size
    waiting, inner = 4 * head * learns * c.tie_word_embeddings, a * B * T * c.intermediate_size
    later = waiting - 2 * head * half
    passing = max(8 * logits, a * logits + 4 * head * learns, later + 2 * inner
                  + 4 * c.hidden_size * (B * T + learns * c.intermediate_size))
    if not gpu:
        block = min(T, max(16, BLOCK // T))         # see parts/attention.py
        seen = sum(min(block, T - i) * min(T, i + block) for i in range(0, T, block)) / T
        token += a * c.num_attention_heads * seen
        patch += a * eye.num_attention_heads * eye.side ** 2
        passing = max(passing, later + 2 * a * B * c.num_attention_heads * block * T - 4 * inner)
    kept = B * T * token + rounded(parts.layers[0])
    if o.checkpoint_layers:                         # all layers' inputs, and one layer's insides
        kept += 4 * B * T * c.hidden_size * c.num_hidden_layers
    else:
        kept *= c.num_hidden_layers
    if o.train == "states":                         # no layer keeps anything: see only_states
        kept = 4 * B * T * c.hidden_size
    kept += a * patches * (eye.hidden_size + 2 * c.hidden_size)             # the connector
    kept += rounded(model.multi_modal_projector, getattr(model.language_model, "lm_head",
                                                         parts.embed_tokens))
    seeing = 0
    if o.train == "all":
        tower = model.vision_tower
        kept += patches * patch * len(tower.vision_model.encoder.layers) + rounded(tower)
    else:                                           # frozen: a chunk of it, before all the others
        chunk = min(o.vision_chunk or len(batch["pixels"]), len(batch["pixels"])) * eye.side ** 2
        seeing = 4 * patches * eye.hidden_size + chunk * (
            (8 + 2 * half) * eye.hidden_size + 2 * a * eye.intermediate_size)
    return max(seeing, kept + a * logits + passing, 3 * waiting)    # 3: two gradients, their sum


def kept(o, model, world, micro_batches=1):
    """{part: bytes} that a rank holds in a step beside activations.

    Shards: of what learns and of the decoder a part, in float32; whole at one time are all but the
    decoder's layers, and two of these (one that runs, one that is on its way), and of what learns
    among them gradients, twice, before they are scattered. Replicas: a step of several
    micro-batches adds its first gradients up beside the buffers that they are then moved into."""
    def size(module, learns=False):
        return 4 * sum(p.numel() for p in module.parameters() if p.requires_grad or not learns)

    weights, learnt = size(model), size(model, True)
    one = 4 * sum(p.numel() for p in layer_matrices(model)) if o.muon else 0    # moment, not two
    if not o.shard:
        twice = 1 + (world > 1 and micro_batches > 1)
        return {"weights": weights, "gradients": twice * learnt, "optimizer": 2 * learnt - one}
    layers, tower = model.language_model.model.layers, model.vision_tower
    aside = size(tower) if not size(tower, True) else 0             # what is frozen is not divided
    rest = weights - aside - size(layers)
    rest_learns = learnt - size(layers, True)
    return {"weights": aside + (weights - aside) / world, "gradients": learnt / world,
            "optimizer": (2 * learnt - one) / world,
            "gathered": rest + 2 * size(layers[0]) + 2 * max(rest_learns, size(layers[0], True))}


def foretold(dataset, i, size=1):
    """Item i of a RawDataset by its annotations alone: its frames are single, different pictures
    of size x size pixels."""
    name, _, record = dataset.pick(i)
    seconds = stated_seconds(record)
    example = Example(name, task_of(record), turns_from_record(record, seconds),
                      lambda j: np.full((size, size, 3), j % 256, np.uint8), seconds * dataset.fps,
                      dataset.fps)
    return make_item(dataset.tokenizer, dataset.config, example, random.Random(0), PLAIN,
                     dataset.longest, dataset.max_tokens)


def seconds_of(o, tokenizer, config, dataset, group):
    """(seconds, padded tokens) of a micro-batch and an optimiser step, measured on random weights
    of this shape; (None, why not) where this machine cannot within a minute."""
    gpu = torch.cuda.is_available()
    model = on_meta(Streamo, config)
    choose(o, model)
    size = config.vision.image_size
    items = [foretold(dataset, key, size) if o.data else dataset[key] for key in group]
    batch = collate(items, tokenizer.pad_id)
    bytes_ = sum(kept(replace(o, shard=False), model, 1).values()) + activations(o, model, batch,
                                                                                  gpu)
    here = torch.cuda.mem_get_info()[0] if gpu else \
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    tokens = batch["input_ids"].numel()
    work = 6 * tokens * sum(p.numel() for p in model.language_model.model.layers.parameters())
    if bytes_ > here:
        return None, f"one takes {bytes_ / 2 ** 30:.0f} GiB, {here / 2 ** 30:.0f} GiB can be used"
    if work > (1e15 if gpu else 2e12):
        return None, f"one is {work / 1e12:.1f} TFLOP, too much for this machine"
    learner = Learner(replace(o, shard=False), tokenizer, Streamo(config))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        learner.step([batch], 0.0)                          # its log waits for a GPU
        times.append(time.perf_counter() - began)
    return min(times), tokens


GPUS = 8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192          # GiB of those that are sold
AROUND = 1.1                                                # CUDA's own, and gaps in its memory


def least_gpu(total):
    """In words, the least GPU that holds so many bytes."""
    size = next((size for size in GPUS if total * AROUND <= size * 2 ** 30), None)
    return f"a GPU of {size} GB" if size else f"no GPU of up to {GPUS[-1]} GB: more ranks, --shard"


def estimate(o):
    """Print what a run would be, from configs and annotations: no weights, no videos, no step.
    Returns {part: bytes} of a process on a GPU and of one on the CPU."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    check(not o.shard or world > 1, "--shard: say on how many ranks, WORLD_SIZE=8 python train.py")
    tokenizer, model = start(o)
    choose(o, model)
    dataset = read_data(o, tokenizer, model.config)
    fit(o, model, dataset, world)
    steps, first = steps_of(o, dataset, world), 0 if o.data else max(0, o.steps - POOL)
    last = min(first + POOL, o.steps)                       # the toy world's end is its largest
    mine = [steps[step][::world] for step in range(first, last)]        # of the first rank
    groups = [group for step in mine for group in step]
    lengths = {key: dataset.estimate(key) for group in groups for key in group}

    def most(power):            # tokens, or what their attention takes
        return lambda group: len(group) * max(lengths[key] for key in group) ** power

    if o.data:
        wanted = [max(groups, key=most(1)), max(groups, key=most(2))]
    else:                       # lengths are guessed: the largest few are drawn
        wanted = sorted(groups, key=most(1))[-POOL:]
    batches = [collate([foretold(dataset, key) if o.data else dataset[key] for key in group],
                       tokenizer.pad_id) for group in wanted]
    largest, batch = max(zip(wanted, batches), key=lambda pair: pair[1]["input_ids"].numel())
    each = o.batch or round(sum(map(len, groups)) * world / len(mine))
    weights = sum(p.numel() for p in model.parameters())
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parts = [kept(o, model, world, max(map(len, mine)))
             | {"activations": max(activations(o, model, one, gpu) for one in batches)}
             for gpu in (True, False)]
    about = "" if o.batch else "about "
    made = o.model or o.vision or is_made(own_start(o).out)
    before = "" if made else (f"lessons     {o.see_steps} steps on stills and {o.watch_steps} on "
                              "busy films, before these\n")
    print(f"tokens      about {sum(lengths.values()) / len(lengths):.0f} a sample, "
          f"at most {max(lengths.values())}{', by the times in the records' * bool(o.data)}\n"
          f"steps       {o.steps} of {about}{counted(each, 'sample')}: {about}"
          f"{counted(o.steps * each, 'sample')}\n"
          f"{before}parameters  {learnt} learn, {weights - learnt} are frozen\n"
          f"micro-batch {' x '.join(map(str, batch['input_ids'].shape))} tokens, "
          f"{len(batch['pixels'])} frames")
    took, tokens = seconds_of(o, tokenizer, model.config, dataset, largest)
    if took is None:
        print(f"time        not measured: of micro-batches {tokens}; a run tells it after 3 steps")
    else:
        rate = sum(lengths[key] for group in groups for key in group) / len(mine) / tokens * took
        number, which = o.steps, ""
        if not made and o.data:                             # its steps are of another size
            which = " after the lessons"
        elif not made:
            number = o.steps + o.see_steps + o.watch_steps
            which = ", those of the lessons as long as the others"
        print(f"time        about {duration(rate * number)}: {counted(number, 'step')}{which}, "
              f"{rate:.2g} s each; the largest micro-batch, of {tokens} tokens, takes this machine "
              f"{took:.2g} s (reading videos and exchange between ranks are not counted)")
    print(f"\nMiB of each of {world} process{'es' * (world > 1)}  on a GPU  on the CPU")
    for part in parts[0]:
        print(f"{part:27}", *(f"{p[part] / 2 ** 20:10.0f}" for p in parts))
    totals = [sum(p.values()) for p in parts]
    print(f"{'total':27}", *(f"{total / 2 ** 20:10.0f}" for total in totals))
    print(f"fits        {least_gpu(totals[0])}")
    return parts


if __name__ == "__main__":
    try:
        if os.environ.get("RANK", "0") == "0":
            estimate(parse())
    except (ValueError, OSError) as error:
        print(f"train.py: {in_a_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
