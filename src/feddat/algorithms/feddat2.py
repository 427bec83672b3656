"""FedDAT-2 prototype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner, RoundContext
from feddat.config import AlgorithmConfig

WEIGHT = "mix"
PERSONAL, SHARED = MAIN_HEAD, "global"


class FedDAT2(Algorithm):
    name = "feddat-2"
    trains = ("global", "local")
    keeps = ("local", "anchor")
    routes = ("mixed", "personal", "global")
    logs = ("loss", "task_global", "task_personal")
    local_from_global = True

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        return {"global": SHARED}

    def begin(self, learner: Learner, context: RoundContext) -> None:
        if context.previous is None:
            learner.copy("global", "local")

    def opt(self, context) -> dict[str, Any]:
        return {"mode": "rows", "base": "live", "p": 0.5, "w": 0.5, "b": None} | context.config.options

    def personal(self, context) -> dict[str, float]:
        o = self.opt(context)
        base = "global" if o["base"] == "live" else "anchor"
        b = 1 - o["w"] if o["b"] is None else o["b"]
        return {"local": o["w"], base: b} if b else {"local": o["w"]}

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        o = self.opt(context)
        if o["mode"] == "two":
            a = learner.task_loss(learner.logits(learner.features("global"), SHARED))
            learner.update(a)
            b = learner.task_loss(learner.logits(learner.features(self.personal(context)), PERSONAL))
            learner.update(b, adapters=("local",))
            loss = a + b
        elif o["mode"] == "batch":
            if torch.rand(()) < o["p"]:
                a = b = loss = learner.task_loss(learner.logits(learner.features(self.personal(context)), PERSONAL))
            else:
                a = b = loss = learner.task_loss(learner.logits(learner.features("global"), SHARED))
            learner.update(loss)
        elif o["mode"] == "rows":
            route = self.personal(context)
            n = learner.size()
            v = learner.rows() // n
            pick = torch.zeros(n, dtype=torch.bool)
            pick[torch.randperm(n)[: max(1, round(o["p"] * n))]] = True
            rows = pick.repeat_interleave(v).view(-1, 1, 1)
            mixed = {name: torch.where(rows, w, 1.0 if name == "global" else 0.0) for name, w in route.items()}
            if "global" not in mixed:
                mixed["global"] = torch.where(rows, 0.0, 1.0)
            f = learner.features(mixed)
            zp, zg = learner.logits(f, PERSONAL), learner.logits(f, SHARED)
            a = b = loss = learner.task_loss(torch.where(pick.view(-1, *[1] * (zp.ndim - 1)), zp, zg))
            learner.update(loss)
        elif o["mode"] == "both":  # one pass, both heads read the same features at live mixture; plus nothing else
            lam = torch.rand(())
            f = learner.features({"local": lam, "global": 1 - lam})
            z = lam * learner.logits(f, PERSONAL) + (1 - lam) * learner.logits(f, SHARED)
            a = b = loss = learner.task_loss(z)
            learner.update(loss)
        return {"loss": loss.detach(), "task_global": a.detach(), "task_personal": b.detach()}

    def prepare(self, learner: Learner, context: RoundContext) -> None:
        totals: list[Tensor] = []
        rows = []
        for _ in learner.held_out():
            zp, zg = self._both(learner, context)
            totals.append(torch.stack([learner.scores(mix(zp, zg, w)) for w in grid()]))
            rows.append((zp, zg, learner.targets()))
        if totals:
            scores = torch.cat(totals, dim=1)
            context.state["grid"] = scores.mean(1)
            context.state[WEIGHT] = torch.tensor(best(scores.mean(1)))
        DUMP.clear(); DUMP.extend(rows)

    def _both(self, learner, context):
        return learner.answers(self.personal(context), PERSONAL), learner.answers("global", SHARED)

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        if route == "global":
            return learner.answers("global", SHARED)
        if route == "personal":
            return learner.answers(self.personal(context), PERSONAL)
        zp, zg = self._both(learner, context)
        return mix(zp, zg, float(context.state.get(WEIGHT, torch.tensor(0.5))))


DUMP: list = []


def grid():
    return [i / 10 for i in range(11)]


def best(scores: Tensor) -> float:
    """The middle of the best-scoring stretch, smoothed."""
    s = scores.clone()
    sm = s.clone()
    sm[1:-1] = (s[:-2] + s[1:-1] + s[2:]) / 3
    sm[0] = (s[0] * 2 + s[1]) / 3
    sm[-1] = (s[-1] * 2 + s[-2]) / 3
    return grid()[int(sm.argmax())]


def mix(zp: Tensor, zg: Tensor, w: float) -> Tensor:
    if w == 0:
        return zg
    if w == 1:
        return zp
    return torch.logaddexp(zp.log_softmax(-1) + torch.log(torch.tensor(w)), zg.log_softmax(-1) + torch.log(torch.tensor(1 - w)))
