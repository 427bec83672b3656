"""Answer questions with a trained model: with that of a run's client, or with an exported model and no client data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import safe_open
from torch import Tensor, nn

from feddat.adapters.peft_form import CONFIG_FILE, put_peft, read_peft
from feddat.adapters.replaced import ReplacedWeights
from feddat.algorithms.base import MAIN_HEAD, RoundContext
from feddat.algorithms.head import Head
from feddat.client.answering import Answering
from feddat.client.learner import BatchLearner
from feddat.client.member import FUSION, Member
from feddat.config import RunConfig
from feddat.devices import device_of
from feddat.example import ClientData
from feddat.experiment.exports.asked import Asked, Picture, as_example, asked_example
from feddat.experiment.exports.folder import (
    ANSWERS_FILE,
    FUSION_FILE,
    HEAD_FILE,
    INFO_FILE,
    ExportError,
    ExportInfo,
    is_export,
    read_json,
)
from feddat.models.base import Backbone, ModelError
from feddat.models.catalog import load_backbone
from feddat.models.two_towers.fusion import FusedBackbone, WeightedFusions
from feddat.models.weights import original_hash, weight_files, weights_hash
from feddat.picture_settings import PictureSettings
from feddat.tensorfile import TensorFileError, read_tensors

#: Answers with their probabilities, most likely first.
Answers: TypeAlias = list[tuple[str, float]]


class Answerer:
    """A trained model that answers questions.

    Args:
        answering: the model, with its state loaded.
        member: the client whose task, head and answers it uses.
        route: the route on which it answers.

    Attributes:
        task: name of its task, a key of :data:`feddat.tasks.TASKS`.
        classes: the answers that it can give.
        pictures: how it reads pictures.
        batch_size: number of questions answered together.
    """

    def __init__(self, answering: Answering, member: Member, route: str) -> None:
        self._answering = answering
        self._member = member
        self._route = route
        self.task: str = member.task.name
        self.classes: tuple[str, ...] = member.task.classes
        self.pictures: PictureSettings = member.data.pictures
        self.batch_size: int = answering.batch_size

    def answer(self, image: Picture | Sequence[Picture], question: str, choices: Sequence[str] = ()) -> str:
        """Return the most likely answer to one question.

        Args:
            image: a picture; for ``nlvr2``, two.
            question: question, sentence or hypothesis.
            choices: for ``vcr``, the four answers to choose from.

        Raises:
            DataError: the question is empty, a picture cannot be read, or the number of pictures or choices is wrong.
        """
        return self.answers([as_example("question", image, question, choices)], 1)[0][0][0]

    def answers(self, batch: Sequence[Asked], k: int = 3) -> list[Answers]:
        """Return the ``k`` most likely answers to each question with probabilities; only one if it is generated freely.

        Probabilities are a softmax over the answers. They are not calibrated for VQA as classification, which trains
        independent scores.

        Raises:
            DataError: a picture cannot be read, or the number of pictures or choices is wrong.
        """
        examples = [asked_example(number, asked) for number, asked in enumerate(batch)]
        return self._answering.likeliest(self._member, examples, self._route, k) if examples else []


def load(folder: Path | str, model: Path | str | None = None, device: str = "cpu") -> Answerer:
    """Load a client's exported model (``feddat export RUN --client NAME``).

    Args:
        folder: folder of the exported model.
        model: the foundation model, if it has moved since the export; merged models do not need one.
        device: device to compute on.

    Raises:
        ExportError: the folder is not an exported model, it is not a client's model, or its foundation model cannot be
            used or is a different one.
        ModelError: a merged model cannot be read.
        ConfigError: this machine cannot use the device.
    """
    place = device_of(device)
    folder = Path(folder).expanduser()
    info = ExportInfo.read(folder)
    if info.task is None:
        raise ExportError(f"{folder}: this is the shared adapter without a head; export a client's model with --client")
    config = RunConfig(
        head={"init": info.head_init},
        fusion={"kind": info.fusion},
        eval={"answers": info.answering, "rank_top": info.rank_top},
    )
    backbone = _backbone(folder, info, str(model) if model is not None else info.model, device)
    if isinstance(backbone, FusedBackbone):
        backbone.fuse(info.fusion, "personal")
    if (folder / CONFIG_FILE).is_file():
        try:
            put_peft(backbone.model, *read_peft(folder))
        except ValueError as error:
            raise ExportError(f"{folder}: {error}") from None
    elif not info.merged and info.kind != "head":
        raise ExportError(f"{folder / CONFIG_FILE}: no such file; the exported model is incomplete")
    answers = read_json(folder / ANSWERS_FILE, "the exported model is incomplete")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ExportError(f"{folder / ANSWERS_FILE}: expected a list of answers")
    listed = tuple(answers) if info.task == "vqa" else ()
    try:
        pictures = PictureSettings().updated(info.pictures)
    except ValueError as error:
        raise ExportError(f"{folder / INFO_FILE}: pictures: {error}") from None
    data = ClientData("exported", info.task, (), (), (), listed, answering=info.answering, pictures=pictures)
    with torch.random.fork_rng(devices=[]):  # heads are initialised at random before they are loaded
        member = Member(data, config, backbone, place)
        _fill_heads(member, folder, info)
    backbone.model.to(place).eval()
    for head in member.heads.values():
        head.eval()
    # The model contains everything, so no adapter is switched.
    learner = BatchLearner(backbone, ReplacedWeights(backbone.model, "head"), "fp32")
    answering = Answering(learner, Head(), RoundContext(1, 1, config.algorithm), config.eval.batch_size)
    return Answerer(answering, member, "none")


def open_answerer(
    folder: Path,
    client: str | None = None,
    model: str | None = None,
    device: str | None = None,
    site: Path | None = None,
    accept_changes: bool = False,
) -> Answerer:
    """Return the answerer of an exported model or of a run.

    Args:
        folder: folder of the exported model or of the run.
        client: for a run, the client whose model to use.
        model: for an exported model, see :func:`load`.
        device: device to compute on; default: the run's device, or the CPU for an exported model.
        site: for a run, the client's own settings, on its machine.
        accept_changes: for a run, continue even if the model was exchanged since the last checkpoint.

    Raises:
        ExportError: an option does not fit the folder.
        ConfigError, DataError, ModelError, ExperimentError: the folder cannot be used.
    """
    if is_export(folder):
        if client is not None or site is not None:
            raise ExportError(f"{folder}: an exported model has one client; leave out --client and --site")
        return load(folder, model, device or "cpu")
    from feddat.experiment.single.run import Experiment

    if model is not None:
        raise ExportError(f"--model: {folder} is a run, which names its own model; leave out --model")
    return Experiment.open(folder, site=site, device=device).answerer(client, accept_changes)


def _backbone(folder: Path, info: ExportInfo, model: str, device: str) -> Backbone:
    if info.merged:
        return load_backbone(str(folder))
    try:
        backbone = load_backbone(model, info.format, device)
    except ModelError as error:
        raise ExportError(f"{folder}: its foundation model cannot be used: {error}; name it with --model") from error
    if backbone.encoder.fingerprint[:16] != info.encoder or not _has_weights(backbone, info.weights):
        raise ExportError(f"{folder}: trained on another model than {model}: weights or processor differ")
    return backbone


def _has_weights(backbone: Backbone, expected: str) -> bool:
    """Return whether a hash is that of a model's weights; exports of version 0.1.0 have that of the rounded ones."""
    return expected == original_hash(backbone) or expected == weights_hash(backbone.model.state_dict())


def _fill_heads(member: Member, folder: Path, info: ExportInfo) -> None:
    """Load the trained heads into those of a member."""
    heads = member.heads
    if (folder / HEAD_FILE).is_file():
        _load(heads[MAIN_HEAD], _read(folder / HEAD_FILE), folder / HEAD_FILE)
    elif info.head_prefix:
        _load(heads[MAIN_HEAD], _below(folder, info.head_prefix), folder)
    elif info.head_prefix is None and any(True for _ in heads[MAIN_HEAD].parameters()):
        raise ExportError(f"{folder}: no {HEAD_FILE}; the exported model is incomplete")
    if info.fusion_weights:
        if FUSION not in heads:
            raise ExportError(f"{folder / INFO_FILE}: fusion_weights, but the model has no trained fusion")
        fusions: list[nn.Module] = [heads[FUSION]]
        while len(fusions) < len(info.fusion_weights):
            member.reset_heads()
            fusions.append(member.heads[FUSION])
        heads[FUSION] = WeightedFusions(fusions, info.fusion_weights)
        states = {f"fusions.{key}": value for key, value in _read(folder / FUSION_FILE).items()}
        _load(heads[FUSION], states, folder / FUSION_FILE)
    member.heads.update(heads)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except TensorFileError as error:
        raise ExportError(str(error)) from None


def _below(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a model whose names begin with a prefix, without the prefix."""
    found: dict[str, Tensor] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  (the file is not a mapping)
            found |= {name.removeprefix(prefix): file.get_tensor(name).float() for name in names}
    return found


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ExportError(f"{path}: the head does not fit: {' '.join(str(error).split())}") from None
