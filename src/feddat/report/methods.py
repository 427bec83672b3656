"""The methods in print, one row each: every list, table and report has its name and description from here."""

from __future__ import annotations

from typing import NamedTuple

from feddat.kinds import KINDS, named_variants


class Method(NamedTuple):
    """One method in print.

    Attributes:
        title: its name.
        note: a description in one line.
    """

    title: str
    note: str


#: Name in a configuration -> the method in print; methods of other packages have no row.
METHODS: dict[str, Method] = {
    "feddat": Method("FedDAT", "a local and a shared adapter teach each other; only the shared adapter is sent"),
    "feddat-joint": Method("FedDAT, joint", "FedDAT that trains both routes in one optimizer step instead of two"),
    "feddat-mild": Method("FedDAT, mild distillation", "FedDAT with mild distillation (alpha and beta 0.1)"),
    "feddat-heads": Method("FedDAT, separate heads", "FedDAT with a separate head for the global adapter"),
    "feddat-mild-heads": Method(
        "FedDAT, mild distillation, separate heads", "FedDAT with mild distillation and separate heads"
    ),
    "feddat-mixed": Method(
        "FedDAT, mild distillation, mixed answers",
        "FedDAT with mild distillation; each client mixes the answers of both routes",
    ),
    "feddat-mixed-heads": Method(
        "FedDAT, mild distillation, separate heads, mixed answers",
        "FedDAT with mild distillation and separate heads; each client mixes the answers of both routes",
    ),
    "feddat-one-way": Method(
        "FedDAT, one-way distillation",
        "FedDAT whose global adapter learns nothing from the local side, for privacy.scope=shared",
    ),
    "feddat-nokd": Method(
        "FedDAT, no distillation", "FedDAT without distillation (alpha and beta 0): only the dual adapters"
    ),
    "fedavg": Method("FedAvg", "one shared adapter, averaged every round"),
    "fedavg-2x": Method(
        "FedAvg, twice the epochs", "FedAvg with twice the local epochs: as much computation as two adapters need"
    ),
    "fedavg-local": Method(
        "FedAvg beside local training, mixed answers",
        "FedAvg and local training side by side; each client mixes the answers of both",
    ),
    "fedavg-ft": Method(
        "FedAvg, fine-tuned", "FedAvg, followed by an epoch of personal fine-tuning that is not shared"
    ),
    "fedprox": Method("FedProx", "one shared adapter, kept near the received one during training"),
    "scaffold": Method("SCAFFOLD", "one shared adapter, with gradients corrected for client drift"),
    "feddyn": Method("FedDyn", "one shared adapter, regularised so that the clients' optima agree"),
    "feddyn-2x": Method(
        "FedDyn, twice the epochs", "FedDyn with twice the local epochs: as much computation as two adapters need"
    ),
    "moon": Method("MOON", "one shared adapter, with features drawn towards those of the received adapter"),
    "ditto": Method("Ditto", "a shared adapter and a personal adapter kept near it"),
    "apfl": Method("APFL", "a shared and a personal adapter, mixed by a weight that each client learns"),
    "pfedme": Method("pFedMe", "a shared adapter that follows a personal adapter, optimised near it on every batch"),
    "local": Method("Local only", "each client trains its own adapter; nothing is sent"),
    "local-2x": Method(
        "Local only, twice the epochs", "local training with twice the epochs: as much computation as two adapters need"
    ),
    "central": Method("Centralised", "one adapter trained on the pooled data of all clients, which federation avoids"),
    "head": Method("Head only", "no adapter: each client trains only its task head"),
    "fedrep": Method("FedRep", "the head trains first, then the shared adapter below it"),
    "fedper": Method("FedPer", "the adapters of the last layers stay with their client; the others are averaged"),
    "feddpa": Method("FedDPA", "a shared and a local adapter, mixed by how familiar the question is"),
    "fedalt": Method("FedALT", "each client's own adapter beside the mean of all others, combined by a learned mixer"),
    "fedsa-lora": Method("FedSA-LoRA", "LoRA whose factor A is averaged while B stays with the client"),
    "ffa-lora": Method("FFA-LoRA", "LoRA whose factor A is fixed while B is averaged"),
    "fedex-lora": Method(
        "FedEx-LoRA", "LoRA averaged exactly: the frozen weights absorb the error of averaging the factors"
    ),
    "feddat-2": Method(
        "FedDAT-2",
        "a shared and a personal adapter train in turns; validation data decides how each client combines them",
    ),
    "feddat-2-2x": Method(
        "FedDAT-2, twice the epochs", "FedDAT-2 with twice the local epochs: as much computation as FedDAT"
    ),
    "lora-fair": Method("LoRA-FAIR", "LoRA whose averaged factor B is corrected towards the average of the products"),
    "fedmosaic": Method(
        "FedMosaic", "each client's own adapter beside a mean of all, weighted by the similarity of the tasks"
    ),
    "fedlease": Method("FedLEASE", "an expert for each cluster of clients; a router selects the best experts"),
    "hilora": Method(
        "HiLoRA", "an adapter for all clients, one per cluster and one per client, trained one after another"
    ),
    "pfedmma": Method("pFedMMA", "adapters of three parts, of which only the middle part is averaged"),
    "fedavgm": Method("FedAvgM", "one shared adapter; the server updates it with momentum"),
    "fedadam": Method("FedAdam", "one shared adapter; the server updates it with Adam"),
    "fedyogi": Method("FedYogi", "one shared adapter; the server updates it with Yogi"),
    "fedmedian": Method("FedMedian", "one shared adapter: the coordinate-wise median of the clients' adapters"),
    "fedtrimmedavg": Method("FedTrimmedAvg", "one shared adapter: the coordinate-wise mean without the extremes"),
    "krum": Method("Krum", "one shared adapter: that of the client nearest to the others"),
    "qfedavg": Method("q-FedAvg", "one shared adapter, averaged with more weight for clients of higher loss"),
}
for _method in ("ditto", "apfl", "feddpa"):
    _title = METHODS[_method].title
    METHODS[f"{_method}-heads"] = Method(f"{_title}, separate heads", f"{_title} with a head for each route")
for _name, _method, _kind in named_variants():
    _title = METHODS[_method].title
    METHODS[_name] = Method(f"{_title}, {KINDS[_kind].title}", f"{_title} that trains {KINDS[_kind].trains}")


def method_name(method: str) -> str:
    """Return a method's name in print; a method of another package is named as in the configuration."""
    return METHODS[method].title if method in METHODS else method
