"""Clusters of clients with similar adapters, for FedLEASE and HiLoRA; those modules name the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from feddat.algorithms.base import LORA_B

#: End of the names of a bottleneck's up-projections, which write to the model as LoRA's B does.
BOTTLENECK_UP = ".bottleneck_up.weight"


def writers(state: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of an adapter's output matrices: LoRA's factors B or a bottleneck's up-projections."""
    return [key for key in state if LORA_B in key or key.endswith(BOTTLENECK_UP)]


def cosine_distances(clients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return 1 − cosine of the output matrices of each two clients, mean over sites, (K, K) (FedLEASE, section 4.1)."""
    total = torch.zeros(len(clients), len(clients))
    keys = writers(clients[0])
    for key in keys:
        unit = functional.normalize(torch.stack([client[key].flatten() for client in clients]), dim=1)
        total += 1 - unit @ unit.T
    return total / len(keys)


def subspace_similarities(clients: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return ‖UᵢᵀUⱼ‖² / r, mean over sites, (K, K); Uᵢ is a basis of the columns of client i's output matrix."""
    total = torch.zeros(len(clients), len(clients))
    keys = writers(clients[0])
    for key in keys:
        bases = torch.stack([torch.linalg.qr(client[key].float()).Q for client in clients])
        overlaps = torch.einsum("ior,jos->ijrs", bases, bases)
        total += overlaps.square().sum(dim=(2, 3)) / bases.shape[2]
    return total / len(keys)


def linked(distances: Tensor, clusters: int) -> list[int]:
    """Return each client's cluster by agglomerative clustering with average linkage.

    Clusters are numbered from 0 in the order in which they first occur.

    Args:
        distances: (K, K), symmetric.
        clusters: number of clusters, 1 to K.
    """
    groups = [[client] for client in range(len(distances))]
    while len(groups) > clusters:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
        i, j = min(pairs, key=lambda pair: float(distances[groups[pair[0]]][:, groups[pair[1]]].mean()))
        groups[i] += groups.pop(j)
    of = {client: number for number, group in enumerate(sorted(groups, key=min)) for client in group}
    return [of[client] for client in range(len(distances))]


def silhouette(distances: Tensor, labels: Sequence[int]) -> float:
    """Return the mean silhouette of clients in clusters, −1 to 1; a client alone in its cluster has 0 (Rousseeuw)."""
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
    """Return the 2 to ``most`` clusters with the highest silhouette; only one cluster for fewer than three clients."""
    if len(distances) < 3:
        return [0] * len(distances)
    candidates = [linked(distances, count) for count in range(2, min(most, len(distances) - 1) + 1)]
    return max(candidates, key=lambda labels: silhouette(distances, labels))


def by_eigengap(similarities: Tensor, most: int) -> list[int]:
    """Return 1 to ``most`` spectral clusters; the largest eigengap of the normalised Laplacian sets their number.

    The clients' rows in the first eigenvectors are clustered by average linkage, which needs no random start.
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
