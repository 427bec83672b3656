"""The mini federations: what their clients share and what differs between them.

Each federation has one thing that is new to the bundled model and common to all clients, and one thing that differs
between the clients. Without the common part, sharing cannot help. ``mini/...`` are the current federations.
``mini-v1/...`` are those of earlier results; with 2,500 training questions per client, they are too easy to
distinguish methods. No version ever changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from feddat.data.mini.concepts import GROUPS
from feddat.data.mini.conventions import CONVENTIONS
from feddat.data.mini.generate import easy_vqa_client, mini_client
from feddat.example import ClientData

#: Makes the clients, given the examples per split and the seed of the data.
Clients: TypeAlias = Callable[[Mapping[str, int], int], tuple[ClientData, ...]]


@dataclass(frozen=True, slots=True)
class MiniFederation:
    """One federation.

    Attributes:
        description: one-line description.
        shared: what is new to the foundation model and common to all clients.
        differs: what differs between the clients.
        clients: function that makes the clients.
    """

    description: str
    shared: str
    differs: str
    clients: Clients


_DOMAINS = {
    "sketch": "pencil outlines on paper, colours as frames",
    "night": "the world in the dark",
    "photo": "noise, blur and slanting light",
    "silhouette": "black shapes on coloured tiles",
}
_TASKS = {
    "nlvr2": "a statement about two pictures: true or false",
    "snli-ve": "a statement about a partly covered picture: entailed, open or contradicted",
    "vcr": "a question with four choices",
}
_FUNCTIONS = ("attribute", "knowledge", "logical", "object", "relation")


def _domain(skills: Mapping[str, float], prefix: str, sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    drawn = [
        mini_client(name, prefix + name, sizes, seed, skills=skills, description=line)
        for name, line in _DOMAINS.items()
    ]
    easy = "the public easy-VQA dataset: one shape on a coloured ground"
    return (*drawn, easy_vqa_client("easy-vqa", sizes, seed, easy))


def _function(domain: str, sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    return tuple(
        mini_client(skill, domain, sizes, seed, skills={skill: 1.0}, description=f"{skill} questions")
        for skill in _FUNCTIONS
    )


def _scene(domain: str, stray: float, sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    skills = {"object": 0.4, "attribute": 0.2, "relation": 0.25, "logical": 0.15}
    mostly = "mostly " if stray else ""
    return tuple(
        mini_client(
            group,
            domain,
            sizes,
            seed,
            skills=skills,
            group=group,
            stray=stray,
            description=f"scenes of {mostly}{group} things",
        )
        for group in GROUPS
    )


def _task(
    domain: str, skills: Mapping[str, float], prefix: str, sizes: Mapping[str, int], seed: int
) -> tuple[ClientData, ...]:
    asked = mini_client("vqa", domain, sizes, seed, skills=skills, description="open questions")
    others = (
        mini_client(task, domain, sizes, seed, task=task, maker=prefix + task, description=line)
        for task, line in _TASKS.items()
    )
    return (asked, *others)


def _convention(sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    skills = {"attribute": 0.15, "relation": 0.2, "knowledge": 0.2, "object": 0.2, "tally": 0.25}
    return tuple(
        mini_client(
            name, "frost", sizes, seed, skills=skills, convention=convention, description=convention.description
        )
        for name, convention in CONVENTIONS.items()
    )


MINI: dict[str, MiniFederation] = {
    "mini/domain": MiniFederation(
        "five clients, five visual domains, mixed questions",
        "frosted glass in front of all, counting tiles by their colours, and questions of two steps",
        "visual domain: sketch, night, photo, silhouette, and the public easy-VQA",
        partial(_domain, {"tally": 0.4, "hop": 0.4, "knowledge": 0.2}, "frosted-"),
    ),
    "mini/function": MiniFederation(
        "five clients, one skill each",
        "a visual domain: chalk outlines on a blackboard",
        "the skill asked for",
        partial(_function, "blackboard"),
    ),
    "mini/scene": MiniFederation(
        "six clients, mostly one topic group each",
        "a visual domain: rapids",
        "the topic of the scenes",
        partial(_scene, "rapids", 0.3),
    ),
    "mini/task": MiniFederation(
        "four clients, four tasks with their own heads and losses",
        "a visual domain: x-ray images",
        "the task: VQA, NLVR2, SNLI-VE, VCR",
        partial(
            _task,
            "radiograph",
            {"object": 0.3, "attribute": 0.15, "relation": 0.3, "knowledge": 0.25},
            "richer-",
        ),
    ),
    "mini/convention": MiniFederation(
        "five clients that mean different things by the same words",
        "a visual domain, frosted glass, and counting",
        "what words mean: sides, colours, families of things, numbers",
        _convention,
    ),
    "mini-v1/domain": MiniFederation(
        "five clients, five visual domains, mixed questions",
        "counting and comparing",
        "visual domain: sketch, night, photo, silhouette, and the public easy-VQA",
        partial(_domain, {"count": 0.4, "compare": 0.35, "object": 0.125, "attribute": 0.125}, ""),
    ),
    "mini-v1/function": MiniFederation(
        "five clients, one skill each",
        "a visual domain: faint chalk outlines",
        "the skill asked for",
        partial(_function, "chalk"),
    ),
    "mini-v1/scene": MiniFederation(
        "six clients, one topic group each",
        "a visual domain: rippled water",
        "the topic of the scenes",
        partial(_scene, "underwater", 0.0),
    ),
    "mini-v1/task": MiniFederation(
        "four clients, four tasks with their own heads and losses",
        "a visual domain: faint x-ray images",
        "the task: VQA, NLVR2, SNLI-VE, VCR",
        partial(_task, "xray", {"object": 0.35, "attribute": 0.35, "relation": 0.3}, ""),
    ),
}
