"""The model card of an exported model: ``README.md`` that begins with the Hub's metadata.

The card says how a model was trained, but names no client and contains no client data. It shows only scores that
clients share. For the metadata, see huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from feddat.adapters.peft_form import hub_name
from feddat.algorithms import ALGORITHMS
from feddat.app.secure_strategy import uses_sums
from feddat.config import RunConfig
from feddat.experiment.exports.folder import ANSWERS_FILE, CARD_FILE, HEAD_FILE, ExportInfo
from feddat.experiment.single.methods import resolve, title
from feddat.kinds import KINDS
from feddat.models.catalog import list_models
from feddat.report.markdown_table import TEXTS, markdown_table

#: Name of the task on the Hub.
_TASK = "visual-question-answering"
#: Fewest clients whose scores are averaged; the mean of one client would reveal its score.
_LEAST_CLIENTS = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that a model comes from.

    Attributes:
        config: configuration of the run, as given.
        rounds: number of finished rounds.
        summary: ``summary.json``; ``None`` if the run is not finished.
        client: the client whose model it is; ``None`` for the shared adapter. The card does not name it.
    """

    config: RunConfig
    rounds: int
    summary: Mapping[str, Any] | None = None
    client: str | None = None


def public_name(model: str) -> str:
    """Return a model's name without its path on this machine."""
    return model if model in list_models() or hub_name(model) else Path(model).name


def write_card(folder: Path, info: ExportInfo, origin: Origin, personal: bool) -> None:
    """Write ``README.md``; ``personal`` says that it is the model of one client."""
    base, revision = hub_name(info.model) or (None, None)
    what = f"{title(origin.config)}, {'one client' if personal else 'the shared adapter'}"
    scores = shared_scores(origin, info.route)
    source = _source(origin.config)
    data = ModelCardData(
        library_name="transformers" if info.merged or info.kind == "head" else "peft",
        base_model=base,
        pipeline_tag=_TASK if info.task in (None, "vqa") else None,
        tags=["feddat", "federated-learning", "vision-language", *([] if info.merged else [info.kind])],
        model_name=what,
        eval_results=[
            EvalResult(
                task_type=_TASK if info.task in (None, "vqa") else str(info.task),
                dataset_type=re.sub(r"\W+", "-", source),
                dataset_name=source,
                metric_type="accuracy",
                metric_name=f"accuracy, {name}",
                metric_value=round(score, 2),
            )
            for name, score in scores.items()
        ]
        or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {what}",
        _about(info, personal),
        "## How it was trained",
        _table(info, origin, revision),
        "## Scores",
        _scores(scores, source),
        "## Privacy",
        _privacy(origin, personal),
        "## Use",
        _use(info, personal),
        "## Method",
        "FedDAT: [arXiv 2308.12305](https://arxiv.org/abs/2308.12305). Adapters: "
        f"{KINDS[info.kind].source if info.kind in KINDS else info.kind}.",
    ]
    (folder / CARD_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def shared_scores(origin: Origin, route: str) -> dict[str, float]:
    """Return the test scores (percent) that the card may show: a client's own, or the mean over clients; often none.

    The summary of a run has no scores of clients that do not share them.
    """
    summary = origin.summary
    if summary is None or origin.config.share_metrics != "scores" or summary.get("split") != "test":
        return {}
    clients: Mapping[str, Mapping[str, float]] = summary["clients"]
    found = [scores.get(route, scores.get("score")) for scores in clients.values()]
    if origin.client is not None:
        own = clients.get(origin.client, {})
        score = own.get(route, own.get("score"))
        return {} if score is None else {"the client's own test questions": score}
    values = [value for value in found if value is not None]
    if len(values) < _LEAST_CLIENTS:
        return {}
    return {f"mean of {len(values)} clients, each with its own head": statistics.fmean(values)}


def _about(info: ExportInfo, personal: bool) -> str:
    whose = "One client's model" if personal else "The shared adapter of a federation"
    form = "merged into the foundation model" if info.merged else f"a {_kind(info)} for {public_name(info.model)}"
    if info.kind == "head":
        form = f"a head for the unchanged {public_name(info.model)}"
    return f"{whose}, {form}. It answers on the route `{info.route}`."


def _table(info: ExportInfo, origin: Origin, revision: str | None) -> str:
    clients = len((origin.summary or {}).get("clients") or {}) or len(origin.config.clients or {})
    rows = {
        "method": title(origin.config),
        "rounds": f"{origin.rounds} of {origin.config.rounds}",
        "clients": str(clients) if clients else "not shared",
        "adapter": _kind(info),
        "foundation model": f"{public_name(info.model)} ({info.family})",
        "revision": revision or "unknown",
        "hash of the weights": f"`{info.weights}`, in {info.format}",
        "privacy": _promise(origin, origin.client is not None) or "none, see below",
        "software": f"feddat {metadata.version('feddat')}",
    }
    return markdown_table(["", ""], rows.items(), [TEXTS, TEXTS]).rstrip()


def _kind(info: ExportInfo) -> str:
    return {"full": "whole model", "head": "head"}.get(info.kind, f"{info.kind} adapter")


def _scores(scores: Mapping[str, float], source: str) -> str:
    if not scores:
        return "No scores: the run is not finished, or the clients do not share their scores."
    return "\n".join(f"{score:.1f} % on {source}: {name}." for name, score in scores.items())


def _promise(origin: Origin, personal: bool) -> str | None:
    """Return the privacy guarantee for every training record or client in short, or ``None`` if there is none."""
    privacy = origin.config.privacy
    if privacy.epsilon is None or (personal and (privacy.scope == "shared" or privacy.of_clients)):
        return None
    if privacy.of_clients:
        return f"({privacy.epsilon:g}, {privacy.delta:g})-differential privacy of every client's whole training data"
    return f"({privacy.epsilon:g}, {privacy.delta:g})-differential privacy of every training record"


def _privacy(origin: Origin, personal: bool) -> str:
    promise = _promise(origin, personal)
    if promise is not None and origin.config.privacy.of_clients:
        shares = origin.config.secure_aggregation.enabled
        level = (
            f"The clients' data did not leave them. Training gave {promise}, by noise that "
            f"{'the clients added in shares' if shares else 'the server added to the mean of updates'}. The guarantee "
            "covers what leaves the server; it does not cover models of single clients."
        )
    elif promise is not None:
        level = (
            f"The clients' data did not leave them. Training gave {promise} (DP-SGD at each client; a record is "
            "a question with its pictures and answers). The guarantee does not cover test questions and answer lists."
        )
    else:
        protection = "Their updates had no further protection: no differential privacy and no secure aggregation."
        config = resolve(origin.config)
        if uses_sums(config, ALGORITHMS[config.method]):
            protection = (
                "The server saw sums of their updates, but no single update (secure aggregation). There was no "
                "differential privacy."
            )
        level = (
            f"The clients' data did not leave them. {protection} A trained model can reveal parts of its training data."
        )
        if origin.config.privacy.on:
            level = (
                "The clients' data did not leave them. Their updates are differentially private, but this model is "
                "not: its client trained a part of it without noise. The model can reveal parts of its training data."
            )
    own = f" Only one client's data trained the head and the local adapter; `{ANSWERS_FILE}` lists its answers."
    return level + (own if personal else "")


def _use(info: ExportInfo, personal: bool) -> str:
    lines = ["import feddat", "", 'model = feddat.load("FOLDER")', 'model.answer("picture.png", "what is it?")']
    blocks = [] if not personal else ["```python\n" + "\n".join(lines) + "\n```"]
    if not info.merged and info.kind not in ("full", "head"):
        load = ["from peft import PeftModel", "", 'model = PeftModel.from_pretrained(base, "FOLDER")']
        if info.kind in ("bottleneck", "prompt"):
            load.insert(1, "import feddat  # adds this kind of adapter to PEFT")
        note = (
            f"`base`: the foundation model. `{HEAD_FILE}` contains the head."
            if personal
            else "`base`: the foundation model."
        )
        blocks += ["```python\n" + "\n".join(load) + "\n```", note]
    return "\n\n".join(blocks) or "This is an ordinary transformers model folder."


def _source(config: RunConfig) -> str:
    """Return the name of the data: that of a benchmark in the catalog, else only "private data"."""
    if config.benchmark is None or Path(config.benchmark).expanduser().is_dir():
        return "private data"
    return config.benchmark
