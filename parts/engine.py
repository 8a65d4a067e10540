"""Many processes that train one model, by torch's own engines, and its state gathered in one place.

Replicated (DistributedDataParallel): every rank holds all weights, gradients and moments. Sharded
(FSDP2's fully_shard): every rank holds a part of them, and a layer is whole only while it runs.
Either way a rank's gradient becomes the mean over the ranks in its last backward of a step
(sharded: in each), and what is stored is the same.
"""
from contextlib import nullcontext

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.state_dict import (StateDictOptions, get_model_state_dict,
                                                     get_optimizer_state_dict,
                                                     set_optimizer_state_dict)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel

from parts.devices import own_rank
from parts.files import check
from parts.weights import write_tensors

ON_THE_FIRST = StateDictOptions(full_state_dict=True, cpu_offload=True)     # {} on other ranks


def distribute(model, shard):
    """The module to call in place of `model` where several ranks train it. shard: see above; the
    decoder's layers are gathered one by one, all else at once, what is frozen stays whole."""
    _, world = own_rank()
    check(not shard or world > 1, "--shard: there is one process; begin it by torchrun")
    if shard:
        mesh = init_device_mesh(next(model.parameters()).device.type, (world,))
        frozen = {p for p in model.vision_tower.parameters() if not p.requires_grad}
        for layer in model.language_model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params=frozen)
        register_fsdp_forward_method(model, "features")     # called by itself, as forward is
        return model
    # as_bucket_view: the gradients lie in the buffers that are sent, and are kept once
    return DistributedDataParallel(model, gradient_as_bucket_view=True) if world > 1 else model


def state_parts(model):
    """Names of what --train states lets learn: the last norm, and the matrix of the head."""
    tied = model.config.decoder.tie_word_embeddings
    head = "model.embed_tokens" if tied else "lm_head"
    return "language_model.model.norm", f"language_model.{head}"


def only_states(model, state_ids):
    """Let only the state tokens' rows of the head learn, and take the layers out of the graph:
    a step costs a forward and the head's backward, and no layer keeps anything for it."""
    for layer in model.language_model.model.layers:
        layer.forward = torch.no_grad()(layer.forward)
    weight = model.get_parameter(f"{state_parts(model)[1]}.weight")
    rows = torch.zeros(len(weight), 1, device=weight.device)
    rows[list(state_ids)] = 1
    weight.register_hook(lambda gradient: gradient * rows)


def gradient_sync(distributed_model, last):
    """The context of a forward and backward. Replicas exchange gradients in the last of a step
    alone, while it still computes; shards in each, for they have no room for whole gradients."""
    replicas = isinstance(distributed_model, DistributedDataParallel)
    return distributed_model.no_sync() if replicas and not last else nullcontext()


def whole(tensor):
    """A tensor as it would be without shards; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor, shard):
    """Of a whole tensor, the same on all ranks, the part that this one holds of `shard`."""
    if not isinstance(shard, DTensor):
        return tensor
    same = DTensor.from_local(tensor, shard.device_mesh, [Replicate()])
    return same.redistribute(placements=shard.placements)


def whole_weights(model):
    """{name: weight} on the CPU of rank 0, {} on the others; all ranks must ask."""
    return get_model_state_dict(model, options=ON_THE_FIRST)


def moments(model, optimizer):
    """{parameter's name: {"step", "exp_avg", ...}}, as each rank holds them; zeros before the first
    step of the optimizer."""
    return get_optimizer_state_dict(model, optimizer)["state"]


def whole_moments(model, optimizer):
    """The same, whole, on the CPU of rank 0, {} on the others; all ranks must ask."""
    return get_optimizer_state_dict(model, optimizer, options=ON_THE_FIRST).get("state", {})


# ---- State files: an optimizer's moments (and a lesson's weights), by the parameters' names

def write_state(path, tensors, step):
    """A safetensors file of {name: tensor} and the number of steps done, whole or not at all."""
    write_tensors(path, tensors, {"step": str(step)})


def read_state(path, wanted):
    """({name: tensor}, steps done) of a state file. ValueError unless its tensors are those of
    wanted, {name: tensor}, in name, shape and type: an optimizer would read past a smaller one."""
    try:
        with safe_open(path, "pt") as file:
            step, names = (file.metadata() or {}).get("step", ""), set(file.keys())
            strange = sorted(names ^ set(wanted))
            check(not strange, f"{path}: not this run's state, {strange[:1]} is missing or unknown")
            found = {name: file.get_tensor(name) for name in sorted(names)}
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    for name, tensor in found.items():
        like = wanted[name]
        check(tensor.shape == like.shape and tensor.dtype == like.dtype,
              f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, "
              f"wanted {like.dtype} {tuple(like.shape)}")
        check(tensor.isfinite().all(), f"{path}: {name} is not finite")
    check(step.isdecimal(), f"{path}: does not say how many steps were done")
    return found, int(step)


def flat(moments):
    """{name: {key: tensor}} -> {"name.key": tensor}."""
    return {f"{name}.{key}": t for name, state in moments.items() for key, t in state.items()}


def load_moments(tensors, model, optimizer):
    """Set an optimizer's state, of shards or not, to tensors as flat gives them."""
    known = get_optimizer_state_dict(model, optimizer)
    state = {name: {key: tensors[f"{name}.{key}"] for key in keys}
             for name, keys in known["state"].items()}
    set_optimizer_state_dict(model, optimizer, {**known, "state": state},
                             options=StateDictOptions(full_state_dict=True))
