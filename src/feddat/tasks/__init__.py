"""Tasks, each with its head, its loss and its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from feddat.tasks.base import Task
from feddat.tasks.nlvr2 import Nlvr2
from feddat.tasks.snli_ve import SnliVe
from feddat.tasks.vcr import Vcr
from feddat.tasks.vqa import Vqa, vqa_score

__all__ = ["TASKS", "Task", "make_task", "vqa_score"]

#: Task name -> factory; the factory of ``vqa`` takes the answer vocabulary, all others take no arguments.
TASKS: Mapping[str, Callable[..., Task]] = {"vqa": Vqa, "nlvr2": Nlvr2, "snli-ve": SnliVe, "vcr": Vcr}


def make_task(name: str, answers: Sequence[str] = ()) -> Task:
    """Return the task called ``name``.

    Args:
        name: key in :data:`TASKS`.
        answers: the client's answer vocabulary in index order (VQA only).

    Raises:
        ValueError: there is no such task, answers are missing (VQA), or answers are given (all other tasks).
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; expected {', '.join(TASKS)}")
    if name == "vqa":
        return TASKS[name](answers)
    if answers:
        raise ValueError(f"task {name}: its classes are fixed, but {len(answers)} answers were given")
    return TASKS[name]()
