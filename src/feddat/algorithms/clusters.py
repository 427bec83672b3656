"""Groups of clients by what their adapters have in common: for FedLEASE and HiLoRA, whose papers are named there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from feddat.algorithms.base import LORA_B

#: In the names of a bottleneck's entries: the matrix that writes, as LoRA's B does.
BOTTLENECK_UP = ".bottleneck_up.weight"


def writers(state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of an adapter's matrices that write: LoRA's factors B, a bottleneck's up-projections."""
    return [key for key in state if LORA_B in key or key.endswith(BOTTLENECK_UP)]


def cosine_distances(clients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return 1 − the cosine of two clients' matrices that write, mean over sites, (K, K) (FedLEASE, section 4.1)."""
    total = torch.zeros(len(clients), len(clients))
    keys = writers(clients[0])
    for key in keys:
        unit = functional.normalize(torch.stack([client[key].flatten() for client in clients]), dim=1)
        total += 1 - unit @ unit.T
    return total / len(keys)


def subspace_similarities(clients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return ‖UᵢᵀUⱼ‖² / r for bases Uᵢ of the columns of clients' matrices that write, mean over sites, (K, K)."""
    total = torch.zeros(len(clients), len(clients))
    keys = writers(clients[0])
    for key in keys:
        bases = torch.stack([torch.linalg.qr(client[key].float()).Q for client in clients])
        overlaps = torch.einsum("ior,jos->ijrs", bases, bases)
        total += overlaps.square().sum(dim=(2, 3)) / bases.shape[2]
    return total / len(keys)


def linked(distances: Tensor, clusters: int) -> list[int]:
    """Return each client's cluster, 0 …, in the order in which they first occur: agglomerative, average linkage.

    Args:
        distances: (K, K), symmetric.
        clusters: how many, 1 to K.
    """
    groups = [[client] for client in range(len(distances))]
    while len(groups) > clusters:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
        i, j = min(pairs, key=lambda pair: float(distances[groups[pair[0]]][:, groups[pair[1]]].mean()))
        groups[i] += groups.pop(j)
    of = {client: number for number, group in enumerate(sorted(groups, key=min)) for client in group}
    return [of[client] for client in range(len(distances))]


def silhouette(distances: Tensor, labels: Sequence[int]) -> float:
    """Return the mean silhouette, −1 to 1, of clients in clusters; 0 for one that is alone in its own (Rousseeuw)."""
    found = []
    for client, label in enumerate(labels):
        own = [other for other, its in enumerate(labels) if its == label and other != client]
        others = [[o for o, its in enumerate(labels) if its == cluster] for cluster in set(labels) - {label}]
        if not own or not others:
            found.append(0.0)
            continue
        within = float(distances[client, own].mean())
        between = min(float(distances[client, other].mean()) for other in others)
        found.append((between - within) / max(within, between, 1e-12))
    return sum(found) / len(found)


def by_silhouette(distances: Tensor, most: int) -> list[int]:
    """Return the clusters, 2 to ``most``, whose silhouette is highest; one where there are fewer than three clients."""
    if len(distances) < 3:
        return [0] * len(distances)
    candidates = [linked(distances, count) for count in range(2, min(most, len(distances) - 1) + 1)]
    return max(candidates, key=lambda labels: silhouette(distances, labels))


def by_eigengap(similarities: Tensor, most: int) -> list[int]:
    """Return spectral clusters, 1 to ``most``, as many as the largest gap of the normalised Laplacian's spectrum says.

    The clients' rows in the first eigenvectors are grouped by average linkage, which needs no random start.
    """
    degrees = similarities.sum(dim=1).clamp_min(1e-12).rsqrt()
    laplacian = torch.eye(len(similarities)) - degrees[:, None] * similarities * degrees
    values, vectors = torch.linalg.eigh(laplacian)
    most = min(most, len(values) - 1)
    if most < 1:
        return [0] * len(values)
    count = int((values[1 : most + 1] - values[:most]).argmax()) + 1
    rows = functional.normalize(vectors[:, :count], dim=1)
    return linked(torch.cdist(rows, rows), count)
