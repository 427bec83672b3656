"""A resumable pretraining run in one or more single-threaded processes that average their gradients."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException, spawn

from feddat.config import ConfigError
from feddat.data.mini.concepts import CONCEPTS
from feddat.data.mini.vocabulary import vocabulary
from feddat.json_lines import Tail, append
from feddat.parent import end_with_parent
from feddat.precision import resolve_precision
from feddat.pretrain.albef import AlbefObjective, AlbefSettings
from feddat.pretrain.batches import BatchMaker
from feddat.pretrain.export import write_model_folder
from feddat.pretrain.objective import Objective
from feddat.pretrain.quality import measure
from feddat.pretrain.settings import PretrainSettings
from feddat.pretrain.vilt import ViltObjective
from feddat.workers import out_of_reach

#: Number of scenes for measuring the finished model.
FINAL_SCENES = 2048

Event = dict[str, Any]


class PretrainError(RuntimeError):
    """Pretraining cannot continue; the message names the file, or what ended a process."""


#: Family -> (its settings class, function that builds a new model from settings).
FAMILIES: Mapping[str, tuple[type[PretrainSettings], Callable[[Any], Objective]]] = {
    kind.family: (kind, new)
    for kind, new in ((PretrainSettings, ViltObjective.new), (AlbefSettings, AlbefObjective.new))
}


def parse_settings(overrides: Sequence[str]) -> PretrainSettings:
    """Return the settings of the family in ``family=`` (default: ViLT) with the other ``key=value`` settings applied.

    Raises:
        ConfigError: the family or a key is unknown, a value does not fit its type or is out of range, or two do not go
            together.
    """
    named = [override.partition("=")[2] for override in overrides if override.startswith("family=")]
    family = named[-1] if named else PretrainSettings.family
    if family not in FAMILIES:
        raise ConfigError(f"family={family}: expected one of {', '.join(FAMILIES)}")
    return FAMILIES[family][0].parse([override for override in overrides if not override.startswith("family=")])


def new_model(settings: PretrainSettings) -> Objective:
    """Return a new model with the read-outs of its pretraining losses."""
    return FAMILIES[settings.family][1](settings)


def pretrain(
    folder: Path, settings: PretrainSettings, progress: Callable[[Event], None] | None = None
) -> dict[str, float]:
    """Pretrain a model, or continue from the checkpoint in ``folder``; return its quality on held-out scenes.

    Args:
        folder: folder for the checkpoint, ``log.jsonl`` and, at the end, the model folder ``model/``.
        settings: settings; they must equal those of an existing checkpoint.
        progress: called with one event every ``settings.every`` steps.

    Raises:
        ConfigError: the folder belongs to a run with other settings, or the settings make no model.
        ModelError: the model to start from cannot be used.
        PretrainError: the checkpoint cannot be read or written, or a process failed.
        OSError: another file cannot be written.
    """
    new_model(settings)  # its errors come before anything is written, and in this process
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "settings.json"
    wanted = json.dumps(settings.values(), indent=1)
    if state.exists() and state.read_bytes() != wanted.encode():
        raise ConfigError(f"{state}: made with other settings; choose another folder or the same settings")
    state.write_text(wanted)
    if settings.jobs == 1:
        _worker(0, settings, folder, progress)
    else:
        rendezvous = folder / "rendezvous"
        rendezvous.unlink(missing_ok=True)
        context: Any = None
        try:
            with out_of_reach():
                context = spawn(_distributed_worker, (settings, folder, rendezvous), settings.jobs, False, daemon=True)  # type: ignore[no-untyped-call]
            # A Ctrl-C that arrived in the meantime is raised here.
            _follow(folder / "log.jsonl", context, progress)
        except ProcessException as error:
            raise PretrainError(_reason(folder, error)) from error
        finally:
            for process in context.processes if context is not None else ():
                process.terminate()
                process.join()
    quality: dict[str, float] = json.loads((folder / "model" / "quality.json").read_text())
    return quality


def _follow(log: Path, context: Any, progress: Callable[[Event], None] | None) -> None:
    """Forward the first worker's log lines while the workers run."""
    done = False
    with Tail(log) as lines:
        while not done:
            done = context.join(timeout=1)
            for event in lines.new():
                if progress is not None:
                    progress(event)


def _reason(folder: Path, error: ProcessException) -> str:
    """Return one line about a process that failed; its message ends with its traceback, if it left one."""
    last = str(error).strip().splitlines()[-1]
    name, _, text = last.partition(": ")
    if name.startswith("feddat."):
        return text
    return f"{folder}: a process failed ({last}); the same command continues from the last checkpoint"


def _distributed_worker(rank: int, settings: PretrainSettings, folder: Path, rendezvous: Path) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=settings.jobs)
    try:
        _worker(rank, settings, folder, None)
    finally:
        dist.destroy_process_group()


def _worker(rank: int, settings: PretrainSettings, folder: Path, progress: Callable[[Event], None] | None) -> None:
    torch.set_num_threads(1)
    model = new_model(settings)
    optimizer = _optimizer(model, settings)
    start, seconds = _load_checkpoint(folder, model, optimizer)
    words = vocabulary()
    maker = BatchMaker(
        words,
        len(CONCEPTS),
        settings.batch_size // settings.jobs,
        settings.seed,
        rank,
        modes=model.modes,
        closed_questions=model.closed_questions,
    )
    began = time.monotonic() - seconds
    losses: dict[str, float] = {}
    model.train()
    for step in range(start, settings.steps):
        _step(model, optimizer, maker, settings, step, losses)
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
            append(folder / "log.jsonl", [event])
            if progress is not None:
                progress(event)
    if rank == 0:
        model.eval()
        model.pretrained.to(model.stored_dtype).float()  # type: ignore[arg-type]  # measure the weights as they are stored
        quality = measure(model, maker, FINAL_SCENES, "test")
        write_model_folder(folder / "model", model, words, settings.values(), quality, time.monotonic() - began)


def _optimizer(model: Objective, settings: PretrainSettings) -> torch.optim.AdamW:
    """Return the optimizer; biases and norms do not decay."""
    parameters = _trained(model)
    decay = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        foreach=True,
    )


def _trained(model: Objective) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _step(
    model: Objective,
    optimizer: torch.optim.Optimizer,
    maker: BatchMaker,
    settings: PretrainSettings,
    step: int,
    losses: dict[str, float],
) -> None:
    """Take one step with all processes' batches, and update the running means of the losses."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate(step)
    bf16 = resolve_precision(settings.precision) == "bf16"
    for batch in maker.training(step, settings.sizes(step), settings.parts):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            values = model(batch)
        total = sum(settings.loss_weights[key] * value for key, value in values.items())
        (total / (settings.parts * settings.jobs)).backward()
        for key, value in values.items():
            losses[key] = 0.98 * losses.get(key, value.item()) + 0.02 * value.item()
    parameters = _trained(model)
    _sum_gradients(parameters, settings.jobs)
    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


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
    try:
        save_file(tensors, temporary, metadata={"step": str(step), "seconds": str(seconds)})
    except SafetensorError as error:
        raise PretrainError(f"{temporary}: {error}; the same command continues from the last checkpoint") from None
    temporary.replace(folder / "checkpoint.safetensors")


def _load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    try:
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
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PretrainError(
            f"{path}: not a checkpoint of this run, or damaged ({reason}); delete it to begin again"
        ) from None
