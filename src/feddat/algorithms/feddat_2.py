"""FedDAT-2: a shared and a personal adapter train in turns, one pass a step; validation data says how a client answers.

A method of this project, after FedDAT (:mod:`.feddat`); docs/feddat-2.md has what led to it. Two routes go through the
frozen model, each with a head of its own, h_s and h_p:

    shared    z_s = h_s( A_s )                    the global adapter alone, as in FedAvg
    personal  z_p = h_p( A_s + A_c )              what the local adapter adds to it

Steps alternate between the two; each is one forward and one backward pass on the task loss alone. Epochs begin with one
route and the other in turn, so that no place in an epoch, such as the smaller last batch, is always the same route's.
A_s trains on both routes, so it misses no batch; A_c trains on the personal one, and adds next to nothing at first.
There is no anchor: the personal route takes A_s as it is. A client answers with a mixture of both probabilities,

    p(y) = w · p_p(y) + (1 − w) · p_s(y),

whose one weight w it chooses before it answers, by the score on its own validation data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from feddat.adapters.base import ROUTES
from feddat.algorithms.base import MAIN_HEAD, Algorithm, Learner, RoundContext
from feddat.algorithms.mixed_answers import MixedAnswers
from feddat.config import AlgorithmConfig, ConfigError, RunConfig

#: Name of the head of the shared route; the personal route has the main one.
SHARED_HEAD = "global"
#: Key of the number of rounds that a client has trained, in its state.
ROUNDS = "rounds"
#: The adapters of the personal route, by the name of this sum (:data:`feddat.adapters.base.ROUTES`).
PERSONAL = "sum"


class FedDAT2(MixedAnswers):
    """Both adapters and both heads train on the task loss; the global adapter travels."""

    name = "feddat-2"
    trains = ("global", "local")
    keeps = ("local",)
    routes = ("mixed", "personal", "global")
    mixes = ("personal", "global")
    logs = ("loss",)
    kinds = ("bottleneck", "lora")
    needs = "adapters whose outputs can be added up"
    hides_gradients = True

    def heads(self, config: AlgorithmConfig) -> Mapping[str, str]:
        """Return the shared route's own head."""
        return {"global": SHARED_HEAD}

    def for_run(self, config: RunConfig, keys: Sequence[str]) -> Algorithm:
        """Return the algorithm itself.

        Raises:
            ConfigError: the fusion of two towers would be shared: the personal route would add up two whole fusions,
                of which the local one is random at first.
        """
        if config.fusion.side == "shared":
            raise ConfigError(f"fusion.side: shared, but {self.name} adds up two adapters; expected personal")
        return self

    def step(self, learner: Learner, context: RoundContext) -> dict[str, Tensor]:
        """Take one step on the route whose turn it is."""
        route, head = ("global", SHARED_HEAD) if is_shared(context) else (PERSONAL, MAIN_HEAD)
        loss = learner.task_loss(learner.logits(learner.features(route), head))
        learner.update(loss)
        return {"loss": loss.detach()}

    def finish(self, learner: Learner, context: RoundContext) -> Mapping[str, Tensor]:
        """Count the client's rounds."""
        context.state[ROUNDS] = torch.tensor(_rounds(context) + 1)
        return {}

    def answer(self, learner: Learner, route: str, context: RoundContext) -> Tensor:
        """Return the scores on one route, or the log-probabilities of the mixture of both."""
        return learner.answers(PERSONAL) if route == "personal" else super().answer(learner, route, context)

    def mixture(self, route: str, context: RoundContext) -> Mapping[str, float] | None:
        """Return the adapters of one route; the mixture is of answers, not of adapters."""
        return ROUTES.get({"personal": PERSONAL, "global": "global"}.get(route, ""))


def is_shared(context: RoundContext) -> bool:
    """Return whether a step is the shared route's: every second one; every second epoch begins with the other route.

    So does every second round, if the last epoch of a round is cut short.
    """
    epochs, cut = divmod(context.steps, context.batches)
    epoch, place = divmod(context.step, context.batches)
    return (_rounds(context) * (1 if cut else epochs) + epoch + place) % 2 == 0


def _rounds(context: RoundContext) -> int:
    """Return in how many rounds the client has trained; states of earlier versions do not say it."""
    if ROUNDS in context.state:
        return int(context.state[ROUNDS].item())
    return 0 if context.previous is None else context.round - 1
