"""What stands in for a pretrained SigLIP and Qwen: a model that learnt to see, then to watch.

    python -m toy.pretrain --out runs/start                          an hour on two CPU cores
    torchrun --nproc_per_node=2 -m toy.pretrain --out runs/start     twice the films in a step
    python -m toy.pretrain --model FOLDER --out runs/again           one that can watch learns on
    python train.py --model runs/start --out runs/demo

The folder is a start like any other (config.json, model.safetensors, tokenizer.json, run.json). The
same command goes on after a stop; train.py without a start makes one in its own folder.
"""
if __name__ == "__main__":                               # torch takes seconds to import
    from parts.early import ctrl_c_is_a_line
    ctrl_c_is_a_line()

import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import Readable, loaded, model_inputs
from loss import state_counts, state_focal_loss
from parts.config import DecoderConfig, StreamoConfig, VisionConfig
from parts.devices import (all_gather, all_reduce, autocast, broadcast_weights, own_device,
                           own_rank, product_dtype)
from parts.engine import flat, load_moments, moments, read_state, write_state
from parts.files import check, read_json, write_json
from parts.optimizers import Muon, layer_matrices, others
from parts.options import SEEDS, check_bounds, option, parser_of
from parts.runs import (Stopped, about_run, alone_in, asked_to_stop, command, program,
                        write_model)
from parts.tokenizer import FRAME, STATES, Tokenizer
from parts.workers import loader_process
from streamo import Streamo, normalised, pooling_matrix
from toy.datasets import LEFT_OUT, ToyFilms, ToyStills, toy_texts
from toy.steps import ToySteps
from toy.world import CENTRES


@dataclass
class Lessons:
    out: str = option("runs/start", "folder of the model that is made")
    model: str = option("", "a model that has had its lessons: its decoder watches again, films "
                            "of a mix of their own; none: from nothing")
    see_steps: int = option(1500, "steps in which the vision encoder learns to see")
    watch_steps: int = option(5000, "steps in which the decoder then learns to watch")
    lr: float = option(1e-3, "learning rate of watching")
    muon: float = option(2.0, "rate of Muon, which moves the decoder's matrices, in --lr; 0: AdamW "
                              "moves all")
    decay: float = option(0.3, "share of the watching, its last, in which the rates fall to 0")
    tasks: str = option("all", "toy tasks", choices=("all", "grounding+caption", *LEFT_OUT))
    seed: int = option(0, "of the weights, the films and their order")
    workers: int = option(1, "processes that draw ahead, on each rank")
    autocast: bool = option(True, "multiply matrices in bfloat16 where the hardware does it")
    save_every: int = option(500, "steps from state to state, to go on from after a stop")

MAY_DIFFER = {"out", "workers", "save_every"}       # where a stopped making is gone on with


def tiny_config(tokenizer):
    """The demo model: 64-pixel frames in 8-pixel patches, 9 visual tokens a frame, 3.4M weights."""
    return StreamoConfig(
        vision=VisionConfig(hidden_size=128, intermediate_size=384, num_hidden_layers=3,
                            num_attention_heads=4, image_size=64, patch_size=8),
        decoder=DecoderConfig(vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=192,
                              intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
                              num_key_value_heads=3, head_dim=32, rope_theta=1e5,
                              rms_norm_eps=1e-6, max_position_embeddings=4096,
                              tie_word_embeddings=True, attention_bias=True, qk_norm=False),
        frame_token_id=tokenizer.frame_id, vision_feature_layer=-1, pooling="average",
        grid=3, coarse_grid=2, window=60, knows="the toy world's shapes")


@torch.no_grad()
def start_copying(layers):
    """Attention that begins by looking at what is like it and passing that on, as attention in
    trained models does (Trockman & Kolter, "Mimetic Initialization of Self-Attention Layers",
    2023): names and numbers are then copied, not learnt one by one, early in a short training."""
    for layer in layers:
        attn, D = layer.self_attn, layer.head_dim
        share = attn.q_proj.out_features // attn.k_proj.out_features    # query heads of a key head
        k, v = (proj.weight.unflatten(0, (-1, D)).repeat_interleave(share, 0).flatten(0, 1)
                for proj in (attn.k_proj, attn.v_proj))                 # (H*D, hidden_size)
        attn.q_proj.weight.mul_(0.7).add_(0.7 * k)
        attn.o_proj.weight.copy_(0.5 * v.T)


def new_tokenizer():
    """A vocabulary learnt from the toy world's dialogues, with our tokens."""
    tokenizer = Tokenizer.train(toy_texts(), 2400)              # it ends sooner, at whole words
    tokenizer.add_tokens([*STATES, FRAME])
    return tokenizer


def new_model(tokenizer):
    """The demo model before anything is learnt."""
    model = Streamo(tiny_config(tokenizer))
    start_copying(model.language_model.model.layers[2:])        # the first two compare frames
    number_waves(model.language_model.model.embed_tokens.weight, tokenizer)
    return model


# As CURRICULUM. Words are bound to things on single pictures, verbs and numbers are learnt where
# everything does something every second, looking back on pictures that change every second (by
# practice of little else), time from short clips, memory from long ones; all of it goes on, in
# smaller parts.
WATCHING = ((0.10, 1536, {"one": 0.3, "busy": 0.6, "frame": 0.1}),
            (0.30, 2304, {"one": 0.05, "busy": 0.6, "frame": 0.15, "short": 0.2}),
            (0.45, 2304, {"busy": 0.2, "frame": 0.8}),
            (1.00, 2304, {"one": 0.03, "busy": 0.3, "frame": 0.12, "short": 0.3, "long": 0.2,
                          "full": 0.05}))
# for a model that has had its lessons: fewer drills, and more waits among other events
AGAIN = ((1.00, 2304, {"one": 0.02, "busy": 0.25, "frame": 0.05, "short": 0.40, "long": 0.18,
                       "full": 0.10}),)


@torch.no_grad()
def number_waves(words, tokenizer):
    """Let the numbers 0 to 999 begin, in the embeddings (V, D), as waves of 14 periods, of length
    1, as in pretrained models (Zhou et al., "Pre-trained Large Language Models Use Fourier Features
    to Compute Addition", 2024): what learns to copy some numbers can then copy all."""
    angles = 2 * math.pi * torch.arange(1000)[:, None] / (2.1 * 1.3 ** torch.arange(14))
    waves = torch.cat([angles.cos(), angles.sin()], 1) / 14 ** 0.5                  # (1000, 28)
    turn = torch.linalg.qr(torch.randn(words.shape[1], waves.shape[1])).Q           # (D, 28)
    words[[tokenizer.id(str(n)) for n in range(1000)]] = waves @ turn.T


# ---- The making ------------------------------------------------------------------------------

def is_made(folder):
    """Whether there is a whole start: the weights are written last."""
    return (Path(folder) / "model.safetensors").exists()


def check_same(o):
    """Refuse, by name, to go on making a start, or to use one, that other options began."""
    path = Path(o.out) / "run.json"
    if not path.exists():
        check(not is_made(o.out), f"--out {o.out}: there is a model in it that is not of lessons, "
              "take another folder")
        return
    was, now = read_json(path), {**asdict(o), "processes": own_rank()[1]}
    # one that was begun before an option was there has its neutral value
    was = {"model": "", "tasks": "all", "muon": 0.0, "decay": 0.0, **was.get("config", {}),
           "processes": was.get("processes")}
    if was["model"] and o.model and Path(was["model"]).resolve() == Path(o.model).resolve():
        was["model"] = o.model                              # the same, by another name
    for name in now.keys() - MAY_DIFFER:
        check(was.get(name) == now[name] or name == "processes" and is_made(o.out),
              f"{path}: {name} was {was.get(name)}, is {now[name]}: take another folder, or "
              "remove this one")


def make(o, stop):
    """Make the start in o.out, or go on with it; each rank does its part. stop: asked_to_stop."""
    folder, (rank, _) = Path(o.out), own_rank()
    with alone_in(folder):
        check_same(o)
        about = about_run(o)
        torch.manual_seed(o.seed)
        if o.model:
            tokenizer = Tokenizer.from_pretrained(o.model)
            model = Streamo.from_pretrained(o.model, torch.float32)
            model.config = replace(model.config, threshold=None)        # it was the old weights'
        else:
            tokenizer = new_tokenizer()
            model = new_model(tokenizer)
        all_gather(None)                                    # all have looked before one writes
        if rank == 0:
            write_json(folder / "run.json", about)
        if o.see_steps and not o.model:                     # its decoder reads what it sees by now
            learn_to_see(o, model, stop)
        if o.watch_steps:
            learn_to_watch(o, tokenizer, model, stop)
        if rank == 0:
            write_model(folder, model, tokenizer, about)
            for path in state_path(o, "see"), state_path(o, "watch"):
                path.unlink(missing_ok=True)
        all_gather(None)                                    # the others wait until it is there


def spoken(o):
    """The words of the options that are not as they are by default."""
    for f in fields(o):
        flag, value = f.name.replace("_", "-"), getattr(o, f.name)
        if isinstance(value, bool) and value != f.default:
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value != f.default:
            yield from (f"--{flag}", str(value))


def main(argv=None):
    program("toy.pretrain", lambda: run(parser_of(Lessons, __doc__), argv))


def run(parser, argv):
    given = vars(parser.parse_args(argv))
    o = Lessons(**given)
    if o.model and "see_steps" in given:
        parser.error("--see-steps: --model can see; its decoder alone has lessons")
    if o.model and Path(o.model).resolve() == Path(o.out).resolve():
        parser.error(f"--out {o.out}: --model is read from there, take another folder")
    check_bounds(parser, o, {"see_steps": (0, 10**9), "watch_steps": (0, 10**9),
                             "workers": (0, 1024), "save_every": 1, "lr": (0, 10),
                             "muon": (0, 1000), "decay": (0, 1), "seed": SEEDS})
    rank, world = own_rank()
    if is_made(o.out):
        check_same(o)
    else:
        again = command(["-m", "toy.pretrain", *spoken(o)], world)
        with asked_to_stop("toy.pretrain", o.out, again) as stop:
            make(o, stop)
    if rank == 0:
        print(f"{o.out} is made; to train from it:", command(["train.py", "--model", o.out], 1))


# ---- To see ----------------------------------------------------------------------------------

def learn_to_see(o, model, stop):
    """The paper starts from a vision encoder and a connector that were pretrained; the demo's learn
    here, in minutes, from stills. A patch, and a visual token of either grid, tells the colour and
    shape of the thing that covers most of it, where its centre lies and how large it is. The heads
    that tell it are thrown away, and the connector's output is whitened."""
    config, device = model.config, own_device()
    vision, connector = model.vision_tower.to(device), model.multi_modal_projector.to(device)
    stills = ToyStills(config)
    pools = [pooling_matrix(config.vision.side, grid, config.pooling).to(device)
             for grid in (config.grid, config.coarse_grid)]
    heads = torch.nn.ModuleList(torch.nn.Linear(size, sum(ToyStills.parts)) for size in
                                (config.vision.hidden_size, config.decoder.hidden_size)).to(device)
    learnt = [*vision.parameters(), *connector.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(learnt, betas=(0.9, 0.95), weight_decay=0.01)
    rank, world = own_rank()
    share = max(1, 64 // world)
    whole = share * world                                               # of a step

    def batches(first):
        return DataLoader(stills, batch_size=share, num_workers=o.workers,
                          worker_init_fn=loader_process,
                          sampler=range(whole * first + rank, whole * o.see_steps, world))

    for step, (images, *labels), bar in lesson(o, "see", o.see_steps, stop, batches,
                                               [optimizer], vision, connector, heads):
        with autocast(o, device):
            patches = vision(normalised(images.to(device)))                         # (B, N, D)
            tokens = connector(patches)
            told = heads[0](patches), *(heads[1](pool @ tokens) for pool in pools)  # (B, cells, 34)
        loss = sum(weight * shown_loss(logits, label.to(device))
                   for weight, label, logits in zip((0.5, 1, 0.5), labels, told))
        rise, fall = (step + 1) / 50, 2 * (1 - step / o.see_steps) + 0.02       # from the middle on
        descend([optimizer], loss, 2e-3 * min(1, rise, fall))
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.2f}")
    images = torch.tensor(np.stack([stills[-1 - i][0] for i in range(256)]), device=device)
    with torch.no_grad():
        whiten(connector, model.encode_frames(normalised(images)))
    broadcast_weights(connector)                            # another machine may round otherwise


def state_path(o, name):
    return Path(o.out) / f"{name}.safetensors"


def lesson(o, name, steps, stop, batches, optimizers, *modules):
    """Yield (step, batch, progress bar) of a lesson, "see" or "watch", whose caller steps by
    descend. batches(first): those from step `first` on. --out/NAME.safetensors is what a stopped
    one goes on from. Raises Stopped, its step saved, when stop() says so."""
    path, learnt, first = state_path(o, name), torch.nn.ModuleList(modules), 0

    def state():
        return {**learnt.state_dict(), **flat(moments(learnt, optimizers))}

    if path.exists():
        tensors, first = read_state(path, state())
        learnt.load_state_dict({key: tensors[key] for key in learnt.state_dict()})
        load_moments(tensors, learnt, optimizers)
    rank, _ = own_rank()
    bar = tqdm(batches(first), f"learning to {name}", steps, initial=first, disable=rank > 0)
    for step, batch in enumerate(bar, first):
        yield step, batch, bar
        number = stop()
        if rank == 0 and ((step + 1) % o.save_every == 0 or step + 1 == steps or number):
            write_state(path, state(), step + 1)
        if number:
            bar.close()
            if rank == 0:
                print(f"toy.pretrain: stopped; {step + 1} of {steps} steps are saved in {path}, "
                      "the same command goes on", file=sys.stderr)
            raise Stopped(number)


def descend(optimizers, loss, *rates):
    """One step of a lesson, each optimizer (of one group) at its learning rate, by the mean of the
    ranks' gradients."""
    (loss / own_rank()[1]).backward()
    learnt = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    all_reduce([p.grad for p in learnt])
    torch.nn.utils.clip_grad_norm_(learnt, 1.0)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def shown_loss(told, labels):
    """The loss of numbers (..., sum(ToyStills.parts)) that tell toy.world.labels (..., 8), all but
    the names before: a scalar. The centre is told twice, as two numbers and as one of the places
    that have words: "on the left" is between two that begin alike, "at the top left" and "at the
    bottom left", and after lessons of two numbers alone nothing there was named right."""
    labels = labels.flatten(0, -2)
    colour, shape, centre, change, place = told.float().flatten(0, -2).split(ToyStills.parts, -1)
    there, rare = labels[:, 0] > 0, change.new_tensor([0.15] + [1.0] * (change.shape[1] - 1))
    some = there.sum().clamp(min=1)                         # none: an empty scene
    shapes = F.cross_entropy(shape[there], labels[there][:, 1].long(), reduction="sum")
    centres = F.l1_loss(centre[there], labels[there][:, 2:5], reduction="sum")
    column, row = ((labels[there][:, [k]] - labels.new_tensor(CENTRES)).abs().argmin(1)
                   for k in (2, 3))
    places = F.cross_entropy(place[there], 3 * row + column, reduction="sum")
    return (F.cross_entropy(colour, labels[:, 0].long()) + (shapes + places) / some
            + 10 * centres / (3 * some)
            + 3 * F.cross_entropy(change, labels[:, 5].long(), weight=rare))


def learn_to_watch(o, tokenizer, model, stop):
    """The paper starts from a pretrained language model. The demo's decoder has its first lessons
    here: beside the answers, heads that are thrown away tell of every visual token, two layers up,
    what it shows and how that differs from the second before; four layers up, whether it is what
    was asked about. With words alone to learn from, a decoder compares no two frames for an hour.
    Two layers up, tokens also come near the words for what is seen or named (see said_targets)."""
    device, decoder = own_device(), model.language_model.model
    model.to(device).vision_tower.requires_grad_(False)
    films = ToyFilms(tokenizer, model.config, o.seed + 10**6)               # clips of its own
    size = model.config.decoder.hidden_size
    low, high = (torch.nn.Sequential(torch.nn.RMSNorm(size), torch.nn.Linear(size, n)).to(device)
                 for n in (sum(ToyStills.parts), 3))
    words = torch.tensor(films.words, device=device)
    indices = word_indices(words, model.config.decoder.vocab_size, films.gerunds, films.the)
    optimizers = watching_optimizers(o, model, low, high)
    state_ids, hidden = torch.tensor(tokenizer.state_ids, device=device), {}
    early, middle = decoder.layers[1], decoder.layers[len(decoder.layers) // 2]
    hooks = [layer.register_forward_hook(lambda layer, _, output: hidden.update({layer: output}))
             for layer in (early, middle)]
    rare = torch.tensor([0.2, 1, 1], device=device)

    def batches(first):
        (rank, world), config = own_rank(), model.config.decoder
        steps = ToySteps(films, AGAIN if o.model else WATCHING, o.watch_steps, films.seed, world,
                         o.tasks)
        readable = Readable(films, config.max_position_embeddings)
        for (batch,) in loaded(readable, tokenizer, steps, range(first, o.watch_steps), o.workers,
                               rank, world):
            yield batch

    for step, batch, bar in lesson(o, "watch", o.watch_steps, stop, batches,
                                   optimizers, model, low, high):
        mask = F.pad(batch["labels"][:, 1:] != -100, (0, 1)).to(device)                # (B, T)
        targets = batch["labels"].to(device).roll(-1, 1)[mask]                         # (n,)
        inputs = model_inputs(batch, device)
        visual = inputs["input_ids"] == tokenizer.frame_id                  # (B, T), N are True
        shown = batch["shown"].to(device)                                              # (N, 10)
        with autocast(o, device):
            logits = model(**inputs, select=mask)                                      # (n, V)
            shown_logits = low(hidden[early][visual])                                  # (N, 34)
            said_logits = F.linear(F.rms_norm(hidden[early], (size,)),
                                   decoder.embed_tokens.weight[words])                 # (B, T, W)
            asked_logits = high(hidden[middle][visual])                                # (N, 3)
        said = said_targets(inputs["input_ids"], indices, visual, shown)               # (B, T, 4)
        renamed = torch.zeros_like(visual).masked_scatter(visual, shown[:, 6] != shown[:, 0])
        counts = state_counts(targets, state_ids)
        loss = state_focal_loss(logits, targets, state_ids, counts, len(targets)) \
            + 0.5 * shown_loss(shown_logits, shown[:, :8]) \
            + F.cross_entropy(asked_logits.float(), shown[:, 8].long(), weight=rare) \
            + said_loss(said_logits, said) + said_loss(said_logits[renamed], said[renamed])
        rate = o.lr * min(1, (step + 1) / 20, (1 - step / o.watch_steps) / max(o.decay, 1e-9))
        descend(optimizers, loss, *([rate, o.muon * rate] if o.muon else [rate]))
        if step % 50 == 0:
            right = (logits.argmax(1) == targets).float().mean()
            bar.set_postfix(loss=f"{loss.item():.2f}", tokens_right=f"{right.item():.2f}")
    for hook in hooks:
        hook.remove()


def watching_optimizers(o, model, *heads):
    """AdamW and, unless --muon is 0, Muon for the matrices of the decoder's layers, which learn the
    same in half the steps."""
    matrices = layer_matrices(model) if o.muon else []
    rest = others(torch.nn.ModuleList([model, *heads]).named_parameters(), matrices)
    found = [torch.optim.AdamW([p for _, p in rest], weight_decay=0.01)]
    if matrices:
        found.append(Muon(matrices, weight_decay=0.05, dtype=product_dtype(o, own_device())))
    return found


def word_indices(words, size, gerunds=(), the=None):
    """words, gerunds, the of ToyFilms -> (size, 3): for every token id which colour, shape and
    change it is; -1: none; the change of "the" is -2, for what follows it is no action."""
    indices = torch.full((size, 3), -1, device=words.device)
    for k, part in enumerate(words.split(ToyFilms.said)[:3]):
        indices[part, k] = torch.arange(len(part), device=words.device)
    for gerund, verb in gerunds:
        indices[gerund] = indices[verb]
    if the is not None:
        indices[the, 2] = -2
    return indices


def said_targets(ids, indices, visual, shown):
    """ids and visual (B, T), indices (V, 3), shown (N, 10) of ToyFilms -> what each token is to
    say, (B, T, 4): the index of a colour, shape, change and number; -1: nothing. A visual token
    says by its name of the second before what it shows, or showed then, and when. The end of a name
    ("red circle") and the 8 tokens after it, those of the next turn included, say that name and, in
    a caption, from the verb on what the thing does ("moves left", "is growing", "is moving left",
    not "on the left")."""
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)                # (B, T)
    colour, shape, change = indices[ids].unbind(-1)
    colour = colour.roll(1, 1)                                          # of the token before
    name = (place * ((colour >= 0) & (shape >= 0))).cummax(1).values    # where the last one ends
    acts = (change >= 0) & (change.roll(1, 1) != -2) & (place - name <= 3)
    verb = (place * acts).cummax(1).values
    near = (name > 0) & (place - name <= 8)
    told = [torch.where(where, which.gather(1, at), -1) for where, which, at in (
        (near, colour, name), (near, shape, name), (near & (verb > name), change, verb))]
    targets = torch.stack([*told, torch.full_like(ids, -1)], -1)
    *_, change, colour, shape, _, number = shown.long().unbind(1)
    targets[visual] = torch.stack([colour - 1, torch.where(colour > 0, shape, -1), change - 1,
                                   number], -1)
    return targets


def said_loss(logits, targets):
    """Cross entropy of logits (..., sum(ToyFilms.said)), products of hidden states with the words'
    embeddings, against targets (..., 4): the sum of the four means. A name in a question and the
    visual tokens of its thing become alike, so that attention finds one from the other."""
    return sum(F.cross_entropy(part.flatten(0, -2), target.flatten(), ignore_index=-1,
                               reduction="sum") / (target >= 0).sum().clamp(min=1)
               for part, target in zip(logits.float().split(ToyFilms.said, -1), targets.unbind(-1)))


def whiten(connector, tokens):
    """Give the visual tokens (F, N, D) mean 0 and like variance in all directions, within the
    connector's last layer: what they share would otherwise outweigh what tells them apart, and a
    decoder whose text embeddings are much shorter would not get to read them."""
    tokens, layer = tokens.flatten(0, 1), connector.linear_2
    values, vectors = torch.linalg.eigh(torch.cov(tokens.T))
    scales = (values.clamp(min=0) + 0.02 * values.mean()) ** -0.5 * tokens.shape[1] ** -0.5
    matrix = vectors @ torch.diag(scales) @ vectors.T
    layer.bias.copy_(matrix @ (layer.bias - tokens.mean(0)))
    layer.weight.copy_(matrix @ layer.weight)


if __name__ == "__main__":
    main()
