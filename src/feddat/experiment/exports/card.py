"""The model card of an exported model: ``README.md`` with the Hub's metadata in front.

It says how a model came about, never from whom: no client's name, none of its data. Scores are those that clients
share. The metadata: huggingface.co/docs/hub/model-cards.
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
from feddat.config import RunConfig
from feddat.experiment.exports.folder import ANSWERS_FILE, CARD_FILE, HEAD_FILE, ExportInfo
from feddat.experiment.single.methods import title
from feddat.kinds import KINDS
from feddat.models.catalog import list_models

#: What the Hub calls what is answered here.
_TASK = "visual-question-answering"
#: Scores of so many clients at least are averaged: the mean of one is that one's.
_LEAST_CLIENTS = 2


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that a model comes from.

    Attributes:
        config: the run as it was given.
        rounds: that are done.
        summary: ``summary.json``; ``None``: the run is not finished.
        client: whose model it is; ``None``: nobody's. Not named in the card.
    """

    config: RunConfig
    rounds: int
    summary: Mapping[str, Any] | None = None
    client: str | None = None


def public_name(model: str) -> str:
    """Return a model's name without the place where it lies on this machine."""
    return model if model in list_models() or hub_name(model) else Path(model).name


def write_card(folder: Path, info: ExportInfo, origin: Origin, personal: bool) -> None:
    """Write ``README.md``; ``personal``: it is one client's model."""
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
        _about(info, origin, personal),
        "## How it was trained",
        _table(info, origin, revision),
        "## Scores",
        _scores(scores, origin, source),
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
    """Return the test scores (percent) that may be told: a client's own, or the mean over clients; often none.

    Clients that keep theirs back have none in a run's summary.
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


def _about(info: ExportInfo, origin: Origin, personal: bool) -> str:
    whose = "One client's model" if personal else "What all clients of a federation have in common"
    form = "merged into the foundation model" if info.merged else f"a {_kind(info)} for {public_name(info.model)}"
    if info.kind == "head":
        form = f"a head for {public_name(info.model)}, which is used as it is"
    return f"{whose}, {form}. It answers on the route `{info.route}`."


def _table(info: ExportInfo, origin: Origin, revision: str | None) -> str:
    clients = len((origin.summary or {}).get("clients") or {}) or len(origin.config.clients or {})
    rows = {
        "method": title(origin.config),
        "rounds": f"{origin.rounds} of {origin.config.rounds}",
        "clients": str(clients) if clients else "not told",
        "adapter": _kind(info),
        "foundation model": f"{public_name(info.model)} ({info.family})",
        "revision": revision or "not known",
        "hash of its weights": f"`{info.weights}`, in {info.format}",
        "privacy": _promise(origin, origin.client is not None) or "none, see below",
        "software": f"feddat {metadata.version('feddat')}",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _kind(info: ExportInfo) -> str:
    return {"full": "whole model", "head": "head"}.get(info.kind, f"{info.kind} adapter")


def _scores(scores: Mapping[str, float], origin: Origin, source: str) -> str:
    if not scores:
        return "None are told: the run is not finished, or scores stay with the clients."
    return "\n".join(f"{score:.1f} % on {source}: {name}." for name, score in scores.items())


def _promise(origin: Origin, personal: bool) -> str | None:
    """Return what holds for every record that a model was trained on, in short; ``None`` where nothing does."""
    privacy = origin.config.privacy
    if privacy.epsilon is None or (personal and privacy.scope == "shared"):
        return None
    return f"({privacy.epsilon:g}, {privacy.delta:g})-differential privacy of every training record"


def _privacy(origin: Origin, personal: bool) -> str:
    promise = _promise(origin, personal)
    if promise is not None:
        level = (
            f"Clients' data did not leave them, and what they trained has {promise} at its client (DP-SGD; a record "
            "is a question with its pictures and answers). Test questions and the list of answers are not covered."
        )
    else:
        level = (
            "Clients' data did not leave them. What they sent was not protected beyond that: no differential privacy, "
            "no secure aggregation. A trained model can give away something of what it was trained on."
        )
        if origin.config.privacy.on:
            level = (
                "Clients' data did not leave them. What they sent is differentially private, and this model is not: "
                "its client trained a part of it without noise. It can give away something of what it was trained on."
            )
    own = f" Head and local adapter were trained on one client's data alone; `{ANSWERS_FILE}` lists its answers."
    return level + (own if personal else "")


def _use(info: ExportInfo, personal: bool) -> str:
    lines = ["import feddat", "", 'model = feddat.load("FOLDER")', 'model.answer("picture.png", "what is it?")']
    blocks = [] if not personal else ["```python\n" + "\n".join(lines) + "\n```"]
    if not info.merged and info.kind not in ("full", "head"):
        load = ["from peft import PeftModel", "", 'model = PeftModel.from_pretrained(base, "FOLDER")']
        if info.kind in ("bottleneck", "prompt"):
            load.insert(1, "import feddat  # brings this kind of adapter to PEFT")
        note = (
            f"`base`: the foundation model. `{HEAD_FILE}` holds the head."
            if personal
            else "`base`: the foundation model."
        )
        blocks += ["```python\n" + "\n".join(load) + "\n```", note]
    return "\n\n".join(blocks) or "An ordinary folder of transformers."


def _source(config: RunConfig) -> str:
    """Return what the data is called: that of named federations by its name, others' not at all."""
    if config.benchmark is None or Path(config.benchmark).expanduser().is_dir():
        return "private data"
    return config.benchmark
