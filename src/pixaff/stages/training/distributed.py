"""A training on several processes, such as one per GPU, with the weights that one process would have given.

``torchrun`` starts the same command several times and numbers the processes: their ranks. Rank r computes every n-th
image of each batch, from image r on. A batch with its crops, colours and dropout is that of one process; what is
divided by a number of pairs, pixels or images of the whole batch, or is a batch norm, is summed over the ranks before
the division; gradients are summed after it. So every term of a loss is a rank's share of it: the shares add up.

Rank 0 alone writes and reports. Every function here does nothing, or works alone, in a single process.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pixaff.errors import PixaffError, TrainingError, UsageError, counted
from pixaff.events import silent
from pixaff.run_options import RunOptions

P = ParamSpec("P")
T = TypeVar("T")

VARIABLES = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What torchrun sets in the environment of each process."""
BUCKET = 1 << 24
"""Number of gradients that are summed at a time: 64 MB."""


@dataclass
class _Ranks:
    rank: int
    count: int
    here: int
    """Number of processes on this machine, which share its processors."""
    images: int = 1
    """Images of a batch of all ranks."""
    alone: bool = False
    """While rank 0 computes something by itself."""


_ranks: _Ranks | None = None
_runs = itertools.count()


def process_count() -> int:
    """Number of processes that torchrun started, this one among them; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if set(os.environ) >= VARIABLES else 1


def refuse_several(command: str, hint: str) -> None:
    """Let only a single process run a command.

    Raises:
        UsageError: There are several, and this one speaks for them.
        SystemExit: This is one of the others.
    """
    if (count := process_count()) > 1:
        if int(os.environ["RANK"]):
            raise SystemExit(UsageError.exit_code)
        raise UsageError(f"found {count} processes, expected one: pixaff {command} does not share its work", hint)


def on_every_rank(function: Callable[P, T]) -> Callable[P, T]:
    """Let all processes that torchrun started work together inside a training function.

    The function is called on each of them, with the device of its rank; only rank 0 reports. If it fails, the first
    rank that fails raises the error, and the others exit silently: that they lost it is no news.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        global _ranks
        if process_count() == 1:
            return function(*args, **kwargs)
        store, ranks = _meet()
        try:
            changed: dict[str, Any] = {"device": _device_of(kwargs, ranks)}
            if ranks.rank:
                changed |= {"report": silent, "progress": False}
            _refuse_standard_input(args[0] if args else kwargs.get("photos"))
            _join(store, ranks, changed["device"])
            _ranks = ranks
            result = function(*args, **{**kwargs, **changed})
            dist.barrier()
            dist.destroy_process_group()
            return result
        except KeyboardInterrupt:
            # All have stopped after the same step, or are about to end: nothing more is expected of the others.
            if ranks.rank:
                raise SystemExit(130) from None
            raise
        except Exception as error:
            if not _is_first(store):
                raise SystemExit(1) from error
            if isinstance(error, PixaffError) or not _is_loss_of_another(error):
                raise
            raise TrainingError(
                f"another of the {ranks.count} processes has ended: it was killed, or ran out of memory",
                "--resume continues from the last checkpoint, with any number of processes",
            ) from error
        finally:
            _ranks = None

    return run


def is_first() -> bool:
    """Whether this process writes and reports: rank 0, or a single process."""
    return _ranks is None or _ranks.rank == 0


def rank_words() -> str:
    """ "2 processes", or nothing for a single one."""
    return "" if _ranks is None else counted(_ranks.count, "process", "processes")


def processes_here() -> int:
    """Number of processes of the training on this machine."""
    return 1 if _ranks is None else _ranks.here


def share(items: Sequence[T]) -> list[T]:
    """Every n-th item: what this rank works on."""
    return list(items) if _ranks is None else list(items[_ranks.rank :: _ranks.count])


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks, without gradient. On a GPU, tensors of the CPU are summed without waiting for it."""
    if _ranks is None or _ranks.alone:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def share_of_mean(mean: Tensor, images: int) -> Tensor:
    """What the mean over the images of this rank adds to that of the whole batch."""
    return mean if _ranks is None or _ranks.alone else mean * (images / _ranks.images)


def gathered(value: T) -> list[T]:
    """The values of all ranks, in their order."""
    if _ranks is None:
        return [value]
    values: list[Any] = [None] * _ranks.count
    dist.all_gather_object(values, value)
    return values


def collected(items: list[T]) -> list[T]:
    """The items of all ranks, at the cost of one number where there are none."""
    if _ranks is None or not int(summed(torch.tensor(len(items)))):
        return items
    return [item for part in gathered(items) for item in part]


def any_rank(*flags: bool) -> list[bool]:
    """Which of the flags are set on some rank."""
    return list(flags) if _ranks is None else (summed(torch.tensor(flags, dtype=torch.int64)) > 0).tolist()


def decided(work: Callable[[], T]) -> T:
    """The result of what rank 0 does by itself, or its error, for all ranks."""
    if _ranks is None:
        return work()
    outcome: list[Any] = [None, None]
    if _ranks.rank == 0:
        _ranks.alone = True
        try:
            outcome[0] = work()
        except PixaffError as error:
            outcome[1] = error
        finally:
            _ranks.alone = False
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def agree(model: nn.Module, images: int, *facts: Any) -> None:
    """Before the first step: all ranks have the same data and options, and get the weights of rank 0.

    Args:
        model: The network.
        images: Images of a batch.
        *facts: What must be equal, in plain values.

    Raises:
        UsageError: There are more ranks than images in a batch.
        TrainingError: The ranks differ.
    """
    if _ranks is None:
        return
    if _ranks.count > images:
        raise UsageError(
            f"found {_ranks.count} processes, expected at most one for each of the {images} images of a batch",
            "start fewer, or give a larger --batch-size",
        )
    found = gathered(repr(facts))
    if len(set(found)) > 1:
        raise TrainingError(
            "the processes found different photos, labels, options or checkpoints",
            "give all of them the same options, photos and output folder, for example on a network file system",
        )
    _ranks.images = images
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                dense = tensor.contiguous()
                dist.broadcast(dense, 0)
                tensor.copy_(dense)


@contextmanager
def shared_layers(model: nn.Module) -> Iterator[None]:
    """Inside the block, batch norm and dropout of a network in training compute as they do on the whole batch.

    Raises:
        UsageError: Batch norm of another kind than `torch.nn.BatchNorm2d` learns its statistics from the batches.
    """
    changed: list[nn.Module] = []
    try:
        for name, module in model.named_modules() if _ranks is not None else ():
            if isinstance(module, _BatchNorm) and module.training and type(module) is not nn.BatchNorm2d:
                raise UsageError(
                    f"{name}, a {type(module).__name__}, learns statistics that several processes cannot share",
                    "train this network on one process, or from initial weights, whose statistics it keeps",
                )
            if isinstance(module, (_DropoutNd, nn.BatchNorm2d)):
                of_batch = _norm if isinstance(module, nn.BatchNorm2d) else _drop
                module.forward = functools.partial(_in_training, module, of_batch)  # type: ignore[method-assign]
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over all ranks."""
    if _ranks is None:
        return
    gradients = [one.grad for one in parameters if one.grad is not None]
    while gradients:
        count = size = 0
        while count < len(gradients) and (not count or size + gradients[count].numel() <= BUCKET):
            size += gradients[count].numel()
            count += 1
        bucket, gradients = gradients[:count], gradients[count:]
        total = torch.cat([each.flatten() for each in bucket])
        dist.all_reduce(total)
        for each, part in zip(bucket, total.split([each.numel() for each in bucket]), strict=True):
            each.copy_(part.view(each.shape))


@functools.lru_cache(maxsize=1)
def _rendezvous() -> dist.Store:
    """One for all trainings of this process: without torchrun's agent, rank 0 is the server, and stays it."""
    store, _, _ = next(dist.rendezvous("env://"))
    return store


def _meet() -> tuple[dist.Store, _Ranks]:
    """What the processes share, and which of them this is.

    Raises:
        TrainingError: They do not find each other.
    """
    rank, count = int(os.environ["RANK"]), process_count()
    try:
        store = _rendezvous()
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"process {rank} of {count} does not reach the others: {error}", "start them with torchrun"
        ) from error
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return dist.PrefixStore(f"pixaff/{next(_runs)}", store), _Ranks(rank, count, here)


def _refuse_standard_input(photos: Any) -> None:
    """Raises:
    UsageError: Paths would come from standard input, which gives each line to one process only.
    """
    if "-" in map(str, photos if isinstance(photos, (list, tuple)) else [photos]):
        raise UsageError("several processes cannot share standard input", "give a folder, or files")


def _device_of(options: Any, ranks: _Ranks) -> str:
    """The device of this rank: the GPU of its number on this machine, or the CPU.

    Raises:
        UsageError: One device was named for all.
    """
    run: RunOptions | None = options.get("run")
    named = str(options.get("device") or ("auto" if run is None else run.device))
    if named == "cpu" or (named == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if named not in ("auto", "cuda"):
        raise UsageError(
            f"found the device {named} for {ranks.count} processes, expected cuda or cpu",
            "each process takes the GPU of its number; CUDA_VISIBLE_DEVICES chooses among them",
        )
    return f"cuda:{os.environ.get('LOCAL_RANK') or 0}"


def _join(store: dist.Store, ranks: _Ranks, device: str) -> None:
    if dist.is_initialized():
        raise UsageError("found a process group, expected none", "pixaff makes its own when torchrun started it")
    backend = "gloo"
    if device != "cpu":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # small facts do not wait for the GPU
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.count)


def _is_first(store: dist.Store) -> bool:
    """Whether no other rank has failed before."""
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:  # whoever holds the store has ended
        return int(os.environ["RANK"]) == 1


def _is_loss_of_another(error: Exception) -> bool:
    words = str(error).lower()
    lost = ("gloo", "nccl", "connection", "socket", "peer", "broken pipe")
    return isinstance(error, (dist.DistError, RuntimeError)) and any(each in words for each in lost)


def _in_training(module: Any, of_batch: Callable[[Any, Tensor], Tensor], x: Tensor) -> Tensor:
    if not module.training or _ranks is None or _ranks.alone:
        return type(module).forward(module, x)
    return of_batch(module, x)


def _drop(module: nn.Module, x: Tensor) -> Tensor:
    """Dropout with the random numbers that these images have in the whole batch."""
    assert _ranks is not None
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    whole = torch.ones((_ranks.images, *x.shape[1:]), dtype=x.dtype, device=x.device).to(memory_format=layout)
    # Not in place: the ones are nobody else's, and an in-place layer gives back what it was given.
    return x * type(module).forward(module, whole)[_ranks.rank :: _ranks.count]


def _norm(module: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm over the whole batch; torch's SyncBatchNorm exists for GPUs only."""
    values = x.float()
    count = summed(torch.tensor(values.numel() / values.shape[1], dtype=torch.float64)).item()
    mean = _Sum.apply(values.sum((0, 2, 3))) / count
    centred = values - mean[:, None, None]
    variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
    if module.track_running_stats and module.running_mean is not None and module.running_var is not None:
        assert module.num_batches_tracked is not None
        with torch.no_grad():
            module.num_batches_tracked.add_(1)
            pace = 1 / float(module.num_batches_tracked) if module.momentum is None else module.momentum
            module.running_mean.lerp_(mean.to(module.running_mean.dtype), pace)
            module.running_var.lerp_((variance * (count / max(count - 1, 1))).to(module.running_var.dtype), pace)
    scale = (variance + module.eps).rsqrt()
    if module.affine:
        scale = scale * module.weight
        return torch.addcmul(module.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)
    return (centred * scale[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """A sum over all ranks, each of which goes on with it: so its gradient is a sum, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return summed(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient.contiguous())
