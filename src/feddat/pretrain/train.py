"""The pretraining run: resumable, in one or more single-thread processes that average their gradients."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from transformers import ViltConfig, ViltForMaskedLM

from feddat.config import ConfigError
from feddat.data.mini.concepts import CONCEPTS
from feddat.data.mini.render import CANVAS
from feddat.data.mini.vocabulary import vocabulary
from feddat.models.fast_vilt import make_fast
from feddat.precision import Precision, resolve_precision
from feddat.pretrain.batches import BatchMaker
from feddat.pretrain.export import write_model_folder
from feddat.pretrain.objective import PretrainingModel
from feddat.pretrain.quality import measure

#: Text tokens that the bundled model can read.
MAX_TEXT = 64

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """Everything that determines the pretrained weights.

    Attributes:
        steps: optimizer steps.
        batch_size: scenes per step, over all processes; a multiple of ``jobs``.
        parts: micro-batches of one step of one process, each of about equal text length.
        lr: peak learning rate; linear warm-up over ``warmup`` steps, then cosine decay to a hundredth.
        simple_steps: so many first steps see scenes of one or two objects only.
        jobs: processes; the gradients of each step are averaged over them.
        hidden, layers, heads, patch: size of the ViLT.
        seed: of weights and data.
    """

    steps: int = 6_000
    batch_size: int = 256
    parts: int = 3
    lr: float = 1.5e-3
    warmup: int = 300
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    simple_steps: int = 1_500
    jobs: int = 2
    hidden: int = 160
    layers: int = 5
    heads: int = 5
    patch: int = 16
    seed: int = 0
    precision: Precision = "auto"
    every: int = 250
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {
            "word": 1.0,
            "pooled": 1.0,
            "z": 1.0,
            "match": 1.0,
            "object": 0.5,
            "colour": 0.3,
            "mention_cell": 0.5,
            "mention_colour": 0.3,
        }
    )

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> PretrainSettings:
        """Return the defaults with ``key=value`` settings in place.

        Raises:
            ConfigError: a key is unknown or a value does not fit its type.
        """
        values: dict[str, Any] = {}
        types = {item.name: type(getattr(cls(), item.name)) for item in fields(cls)}
        for override in overrides:
            key, _, value = override.partition("=")
            if types.get(key) not in (int, float, str):
                known = ", ".join(name for name, kind in types.items() if kind in (int, float, str))
                raise ConfigError(f"unknown pretraining setting {override!r}; expected key=value with one of {known}")
            try:
                values[key] = types[key](value)
            except ValueError:
                raise ConfigError(f"{key}: expected {types[key].__name__}, got {value!r}") from None
        settings = cls(**values)
        if settings.batch_size % settings.jobs:
            raise ConfigError(f"batch_size={settings.batch_size} is not a multiple of jobs={settings.jobs}")
        if settings.precision not in get_args(Precision):
            raise ConfigError(f"precision={settings.precision}: expected one of {', '.join(get_args(Precision))}")
        return settings

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a 0-based step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def sizes(self, step: int) -> tuple[int, ...]:
        """Return how many objects the scenes of a step may hold."""
        return (1, 2) if step < self.simple_steps else (1, 2, 3, 4)


def new_model(settings: PretrainSettings) -> PretrainingModel:
    """Return a ViLT with fresh weights and the read-outs of the pretraining losses."""
    torch.manual_seed(settings.seed)
    config = ViltConfig(
        vocab_size=len(vocabulary()),
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        image_size=CANVAS,
        patch_size=settings.patch,
        max_position_embeddings=MAX_TEXT,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=2,
        modality_type_vocab_size=2,
        max_image_length=-1,
        layer_norm_eps=1e-6,
    )
    vilt = make_fast(ViltForMaskedLM(config))
    grid = CANVAS // settings.patch
    embeddings = vilt.vilt.embeddings
    with torch.no_grad():
        # Patch features arrive with a scale near 1; positions much fainter than that are never learnt from.
        embeddings.position_embeddings.copy_(0.7 * _sinusoids(grid, settings.hidden))
    return PretrainingModel(vilt, grid)


def _sinusoids(grid: int, width: int) -> Tensor:
    """Return fixed 2-D sinusoids for a class token (zeros) and grid x grid patches, (1, 1 + grid², width)."""
    quarter = width // 4
    angle = torch.arange(grid)[:, None] * math.pi / grid * torch.exp2(torch.linspace(-1, 2, quarter))
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width / 2)
    rows = wave[:, None].expand(grid, grid, -1)
    columns = wave[None].expand(grid, grid, -1)
    patches = torch.cat([rows, columns], dim=2).reshape(grid * grid, -1)
    return torch.cat([torch.zeros(1, width), patches])[None]


def pretrain(
    folder: Path, settings: PretrainSettings, progress: Callable[[Event], None] | None = None
) -> dict[str, float]:
    """Pretrain, checkpointing into ``folder``; go on from the newest checkpoint there; return the held-out quality.

    Args:
        folder: checkpoints, ``log.jsonl`` and, at the end, the model folder ``model/``.
        settings: must equal those of an existing checkpoint.
        progress: called with one event per ``settings.every`` steps.

    Raises:
        ConfigError: the folder's checkpoint was made with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "settings.json"
    wanted = json.dumps(asdict(settings), indent=1)
    if state.exists() and state.read_text() != wanted:
        raise ConfigError(f"{state}: made with other settings; choose another folder or the same settings")
    state.write_text(wanted)
    if settings.jobs == 1:
        _worker(0, settings, folder, progress)
    else:
        rendezvous = folder / "rendezvous"
        rendezvous.unlink(missing_ok=True)
        context = spawn(_distributed_worker, (settings, folder, rendezvous), settings.jobs, join=False)  # type: ignore[no-untyped-call]
        _follow(folder / "log.jsonl", context, progress)
    quality: dict[str, float] = json.loads((folder / "model" / "quality.json").read_text())
    return quality


def _follow(log: Path, context: Any, progress: Callable[[Event], None] | None) -> None:
    """Pass the first worker's log lines on while the workers run."""
    position = log.stat().st_size if log.exists() else 0
    done = False
    while not done:
        done = context.join(timeout=1)
        if progress is not None and log.exists():
            with log.open() as stream:
                stream.seek(position)
                for line in stream:
                    progress(json.loads(line))
                position = stream.tell()


def _distributed_worker(rank: int, settings: PretrainSettings, folder: Path, rendezvous: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=settings.jobs)
    try:
        _worker(rank, settings, folder, None)
    finally:
        dist.destroy_process_group()


def _worker(rank: int, settings: PretrainSettings, folder: Path, progress: Callable[[Event], None] | None) -> None:
    torch.set_num_threads(1)
    model = new_model(settings)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        foreach=True,
    )
    start, seconds = _load_checkpoint(folder, model, optimizer)
    words = vocabulary()
    maker = BatchMaker(words, len(CONCEPTS), settings.batch_size // settings.jobs, settings.seed, rank)
    parameters = list(model.parameters())
    began = time.monotonic() - seconds
    losses: dict[str, float] = {}
    model.train()
    bf16 = resolve_precision(settings.precision) == "bf16"
    for step in range(start, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step)
        for batch in maker.training(step, settings.sizes(step), settings.parts):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                values = model(batch)
            total = sum(settings.loss_weights[key] * value for key, value in values.items()) / (
                settings.parts * settings.jobs
            )
            total.backward()
            for key, value in values.items():
                losses[key] = 0.98 * losses.get(key, value.item()) + 0.02 * value.item()
        _sum_gradients(parameters, settings.jobs)
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if rank == 0 and (done % settings.every == 0 or done == settings.steps):
            quality = measure(model, maker, 512) if done % (4 * settings.every) == 0 else {}
            seconds = time.monotonic() - began
            event = {
                "step": done,
                "steps": settings.steps,
                "seconds": round(seconds, 1),
                "seconds_left": round(seconds / done * (settings.steps - done)),
                "losses": {key: round(value, 4) for key, value in losses.items()},
                "quality": {key: round(value, 1) for key, value in quality.items()},
            }
            _save_checkpoint(folder, model, optimizer, done, seconds)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(event) + "\n")
            if progress is not None:
                progress(event)
    if rank == 0:
        model.eval()
        quality = measure(model, maker, 2048, "test")
        write_model_folder(folder / "model", model.vilt, words, asdict(settings), quality, time.monotonic() - began)


def _sum_gradients(parameters: list[nn.Parameter], jobs: int) -> None:
    if jobs == 1:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    position = 0
    for parameter in parameters:
        size = parameter.numel()
        parameter.grad = flat[position : position + size].view_as(parameter).clone()
        position += size


def _save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    tensors = {f"model.{key}": value.detach().clone().contiguous() for key, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.clone() for key, value in state.items()}
    temporary = folder / "checkpoint.tmp"
    save_file(tensors, temporary, metadata={"step": str(step), "seconds": str(seconds)})
    temporary.replace(folder / "checkpoint.safetensors")


def _load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(path)
    model.load_state_dict(
        {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return int(metadata["step"]), float(metadata["seconds"])
