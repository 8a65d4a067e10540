"""How long and how large a run of train.py would be, from configs and annotations alone.

    python train.py --estimate --preset paper --model FOLDER --data FILE --videos FOLDER
"""
import os
import random
import sys
from itertools import takewhile

import numpy as np

from data import PLAIN, POOL, Example, Steps, collate, make_item, turns_from_record
from parts.annotations import stated_seconds, task_of
from parts.devices import in_bfloat16
from streamo import BLOCK
from toy.datasets import CURRICULUM
from train import choose, parse, read_data, start


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
        block = min(T, max(16, BLOCK // T))         # see streamo.blocked_attention
        seen = sum(min(block, T - i) * min(T, i + block) for i in range(0, T, block)) / T
        token += a * c.num_attention_heads * seen
        patch += a * eye.num_attention_heads * eye.side ** 2
        passing = max(passing, later + 2 * a * B * c.num_attention_heads * block * T - 4 * inner)
    kept = B * T * token + rounded(parts.layers[0])
    if o.checkpoint_layers:                         # all layers' inputs, and one layer's insides
        kept += 4 * B * T * c.hidden_size * c.num_hidden_layers
    else:
        kept *= c.num_hidden_layers
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


def foretold(dataset, i):
    """Item i of a RawDataset by its annotations alone: its frames are single, different pixels."""
    name, _, record = dataset.pick(i)
    seconds = stated_seconds(record)
    example = Example(name, task_of(record), turns_from_record(record, seconds),
                      lambda j: np.full((1, 1, 3), j % 256, np.uint8), seconds * dataset.fps,
                      dataset.fps)
    return make_item(dataset.tokenizer, dataset.config, example, random.Random(0), PLAIN,
                     dataset.longest)


def estimate(o):
    """Print what a run would be, from configs and annotations: no weights, no videos, no step.
    Returns {part: bytes} of a process on a GPU and of one on the CPU."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    tokenizer, model = start(o)
    choose(o, model)
    dataset = read_data(o, tokenizer, model.config, world)
    steps = Steps(o, dataset, 0, world, CURRICULUM)         # the toy world's end is its largest
    groups = list(takewhile(lambda _: len(steps.sizes) <= POOL,
                            steps.batches(0 if o.data else max(0, o.steps - POOL))))
    lengths = {key: dataset.estimate(key) for group in groups for key in group}
    # the micro-batch with the most tokens, and the one whose attention takes most
    largest = [max(groups, key=lambda group: len(group) * max(lengths[key] for key in group) ** n)
               for n in (1, 2)]
    batches = [collate([foretold(dataset, key) if o.data else dataset[key] for key in group],
                       tokenizer.pad_id) for group in largest]
    each = o.batch or round(len(lengths) * world / min(POOL, o.steps))
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    learnt, weights = sum(sizes), sum(p.numel() for p in model.parameters())
    shard = max(learnt / world, *sizes) if o.zero else learnt       # a tensor is not divided
    parts = [{"weights": 4 * weights, "gradients": 4 * learnt, "optimizer": 8 * shard,
              "activations": max(activations(o, model, batch, gpu) for batch in batches)}
             for gpu in (True, False)]
    about = "" if o.batch else "about "
    lessons = (0, 0) if o.model or o.vision else (o.see_steps, o.watch_steps)
    print(f"tokens      about {sum(lengths.values()) / len(lengths):.0f} a sample, "
          f"at most {max(lengths.values())}\n"
          f"steps       {o.steps} of {about}{each} samples: {about}{o.steps * each} samples\n"
          f"lessons     {lessons[0]} steps on stills and {lessons[1]} on busy films, before these\n"
          f"parameters  {learnt} learn, {weights - learnt} are frozen\n"
          f"micro-batch {' x '.join(map(str, batches[0]['input_ids'].shape))} tokens, "
          f"{len(batches[0]['pixels'])} frames\n\n"
          f"MiB of each of {world} processes  on a GPU  on the CPU")
    for part in parts[0]:
        print(f"{part:27}", *(f"{p[part] / 2 ** 20:10.0f}" for p in parts))
    print(f"{'total':27}", *(f"{sum(p.values()) / 2 ** 20:10.0f}" for p in parts))
    return parts


if __name__ == "__main__":
    try:
        if os.environ.get("RANK", "0") == "0":
            estimate(parse())
    except (ValueError, OSError) as error:
        print(f"train.py: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        sys.exit(2)
