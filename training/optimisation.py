"""What both training programs share: the device, learning rate, weight average, checkpoints.

Started by `torchrun`, the processes average their gradients, each with its own pictures; started alone, one does all.
"""

import copy
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from training.config import RunConfig

Module = TypeVar("Module", bound=nn.Module)


def pick_device() -> torch.device:
    """The GPU of this process, joined with the others of the run; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True  # shapes stay the same
    if "LOCAL_RANK" in os.environ:
        distributed.init_process_group("nccl")
    return device


def place(module: Module, device: torch.device, dtype: torch.dtype = torch.float32) -> Module:
    """Move a module to the device, its weights in the memory order that convolutions of half precision like best."""
    return module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return] # not in the stubs


def rank() -> int:
    """Number of this process among those of the run."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def load_average(student: nn.Module, checkpoint: Path) -> None:
    """Give a student the averaged weights of a checkpoint; weights that the student lacks are dropped."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
    student.load_state_dict({name: weights[name] for name in student.state_dict()})


def seed_pictures(seed: int, step: int) -> None:
    """Give each process and each leg of a run its own pictures."""
    torch.manual_seed(seed + 1000 * step + rank())


def is_time_up(step: int, started_s: float, limit_s: float) -> bool:
    """Tell, every twentieth step, whether the limit has passed; the first process decides for all."""
    if step % 20 or math.isinf(limit_s):
        return False
    is_up = time.monotonic() - started_s > limit_s
    if not distributed.is_initialized():
        return is_up
    flag = torch.tensor(float(is_up), device="cuda")
    distributed.broadcast(flag, 0)
    return bool(flag.item())


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradients by their mean over the processes of the run."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(together)
    parts = together.div_(distributed.get_world_size()).split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def learning_rate(step: int, config: RunConfig) -> float:
    """Rise in a line over the warm-up, then fall along a half cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def build_optimizer(student: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); vectors (biases, norms) do not decay."""
    matrices = [p for p in student.parameters() if p.dim() > 1]
    vectors = [p for p in student.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=torch.cuda.is_available())


class WeightAverage:
    """Exponential average of a model's weights, with its current batch norm statistics (Polyak & Juditsky 1992)."""

    def __init__(self, student: nn.Module, decay: float) -> None:
        """Start from the weights as they are."""
        self.model = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take one step towards the student's weights; the first steps are larger."""
        self.num_updates += 1
        decay = min(self.decay, self.num_updates / (self.num_updates + 10))
        averages = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        currents = [t for t in student.state_dict().values() if t.is_floating_point()]
        torch._foreach_lerp_(averages, currents, 1 - decay)


@dataclass(slots=True)
class Run:
    """A student in training: everything that a checkpoint holds."""

    student: nn.Module
    config: RunConfig
    step: int = 0
    average: WeightAverage = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        """Build the optimiser and the average."""
        self.optimizer = build_optimizer(self.student, self.config)
        self.average = WeightAverage(self.student, self.config.average_decay)
        self.scaler = torch.amp.GradScaler(enabled=next(self.student.parameters()).is_cuda)

    def apply(self, loss: Tensor) -> None:
        """Back-propagate one loss and move the weights."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        average_gradients(list(self.student.parameters()))
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.student)
        self.step += 1

    def save(self, path: Path) -> None:
        """Write a checkpoint from which `resume` goes on; only the first process does."""
        if rank() != 0:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {
            "step": self.step,
            "num_updates": self.average.num_updates,
            "student": self.student.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        torch.save(state, path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, map_location=next(self.student.parameters()).device, weights_only=True)
        self.step = state["step"]
        self.average.num_updates = state["num_updates"]
        self.student.load_state_dict(state["student"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
