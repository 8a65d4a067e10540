"""Devices and ranks: the GPU or CPU of a process, and what the processes of a run exchange."""
import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def own_device():
    """The GPU of this process (see parts.runs.join_ranks), or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_device(name):
    """ValueError for --device cuda where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is none that PyTorch can use")


def in_bfloat16(o, gpu):
    """Whether matrices are multiplied in bfloat16: by --autocast, where the hardware can. Where it
    is emulated, as on CPUs without AMX or AVX-512 for it, float32 is up to a hundred times faster.
    Without a GPU, one that can is meant."""
    if gpu:
        can = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(False)   # no emulation
    else:
        known = torch.cpu.get_capabilities()
        can = known.get("amx_bf16", False) or known.get("avx512_bf16", False)
    return o.autocast and can


def product_dtype(o, device):
    """What matrices are multiplied in on this device."""
    return torch.bfloat16 if in_bfloat16(o, device.type == "cuda") else torch.float32


def autocast(o, device, **more):
    """The context of a forward on this device, in bfloat16 where in_bfloat16() says so."""
    enabled = in_bfloat16(o, device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, **more)


def own_rank():
    """(rank, world) of this process; (0, 1) where it is the only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def all_gather(value):
    """[the value of each rank], on every rank."""
    values = [value] * own_rank()[1]
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def all_reduce(tensors):
    """Replace each tensor, of one type, by its sum over the ranks: in one message, for a hundred
    small ones take a CPU eight times as long."""
    if dist.is_initialized():
        whole = parameters_to_vector(tensors)
        dist.all_reduce(whole)
        vector_to_parameters(whole, tensors)


def broadcast_weights(module):
    """Give all ranks the weights of the first."""
    for p in module.parameters() if dist.is_initialized() else ():
        dist.broadcast(p.data, 0)


def failures(add=0):
    """How many ranks have said that something went wrong, this one included with add=1. 2 where
    they can no longer be asked: then another has gone."""
    if not dist.is_initialized():
        return add
    try:
        return dist.distributed_c10d._get_default_store().add("failed", add)
    except RuntimeError:
        return 2
