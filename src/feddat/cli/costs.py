"""The costs that commands announce before they download and compute for hours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from feddat.cli.common import out

if TYPE_CHECKING:
    import torch

    from feddat.config import RunConfig

#: (device, precision) -> share of the rate of matrix products that ViLT's steps reach (docs/benchmarks.md).
_SHARES = {("cpu", "fp32"): 0.85, ("cpu", "bf16"): 0.75, ("cpu", "int8"): 0.53, ("cuda", "bf16"): 0.37}
_OTHER_SHARE = 0.3


def announce(configs: Sequence[RunConfig], methods: Sequence[str], seeds: int) -> None:
    """Print the downloads, licences and approximate duration of comparisons on data of the Hub."""
    from feddat.benchmarks.medical import MEDICAL
    from feddat.devices import device_of
    from feddat.hub.client import cache_folder
    from feddat.models.known import KNOWN

    medical = [config for config in configs if config.benchmark in MEDICAL]
    if not medical:
        return
    device = device_of(medical[0].device)
    datasets = {key: d for c in medical for key, d in MEDICAL[str(c.benchmark)].datasets().items()}
    lines = [f"  {d.repository}  about {d.megabytes} MB  {d.licence}" for d in datasets.values()]
    name = medical[0].model.partition("@")[0]
    if (known := KNOWN.get(name)) is not None:
        lines.insert(0, f"  {name}  about {1000 * known.file:.0f} MB  {known.licence}")
    out.print(Text("\n".join(["downloads, unless already in the cache:", *lines])), soft_wrap=True)
    out.print(Text.assemble((f"{'to':<8}", "dim"), str(cache_folder())), soft_wrap=True)
    if known is not None and known.gflop is not None and device.type in ("cpu", "cuda"):
        runs = [config.model_copy(update={"method": method}) for config in medical for method in methods]
        seconds = sum(gigaflops(run, known.gflop) for run in runs) * seeds * 1e9 / _rate(medical[0], device)
        said = f"about {seconds / 3600:.1f} h on this {medical[0].device}, estimated from its rate of matrix products"
        out.print(Text.assemble((f"{'time':<8}", "dim"), f"{said} and docs/benchmarks.md"), soft_wrap=True)


def gigaflops(config: RunConfig, step: float) -> float:
    """Estimate the billions of operations that the backbone takes in one run on a ``medical/*`` federation.

    Args:
        config: settings of the run; its method may be a variant.
        step: billions of operations per question of a pass forward and one backward. Each counts half of it: frozen
            weights need no gradients.
    """
    from feddat.algorithms import ALGORITHMS
    from feddat.benchmarks.medical import MEDICAL, questions
    from feddat.experiment.single.methods import resolve

    settings = resolve(config)
    algorithm = ALGORITHMS[settings.method]
    name, plan = str(settings.benchmark), settings.train
    clients = sum(part.sites for part in MEDICAL[name].parts)
    train, test = questions(name, settings.train_examples, settings.test_examples)
    held = test if settings.validation_examples is None else settings.validation_examples * clients
    forward, backward = algorithm.passes(settings.algorithm)
    if not backward:  # the cache keeps what the frozen model makes of a question
        return step / 2 * (train + held + test)
    per_round = plan.epochs * train if plan.steps is None else plan.steps * plan.batch_size * clients
    trained = (forward + backward) * settings.rounds * settings.server.fraction * per_round
    tuned = 2 * settings.algorithm.personal_epochs * train
    curves = settings.rounds // settings.eval.every
    evaluated = len(algorithm.routes) * (curves * held + test)
    return step / 2 * (trained + tuned + evaluated)


def _rate(config: RunConfig, device: torch.device) -> float:
    """Return the operations per second that steps on this machine should reach."""
    import torch

    from feddat.bench.clock import matmul_rates
    from feddat.precision import resolve_precision

    precision = resolve_precision(config.train.precision, config.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    return max(matmul_rates(device, dtype).values()) * _SHARES.get((device.type, precision), _OTHER_SHARE)
