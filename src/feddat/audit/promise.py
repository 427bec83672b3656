"""What a run's ε promises about canaries, which are single records, and to whom.

A canary's coin adds a record or leaves it out. With ``unit: record`` that is what ε is about. With ``unit: client``,
ε is about leaving out everything that a client has. One record more or less changes its clipped update u into another
one, u': that is to leave out u and to add u', two changes of norm C at most, so the sum moves by 2C. Half the noise
multiplier says what this costs, at the same δ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feddat.client.client_level import planned_rounds, server_noise, share_noise
from feddat.config import RunConfig
from feddat.privacy.accounting import Steps, epsilon_of


def stated(config: RunConfig) -> dict[str, Any]:
    """Return what a run states under ``privacy``, for JSON; every value is ``None`` if it states nothing.

    Keys: ``epsilon``, ``delta``, ``unit``; ``scope``, only of records; ``record``, the ε that holds for one record of a
    client; and ``views``, the attackers that this ε holds against.
    """
    privacy = config.privacy
    if not privacy.on:
        return dict.fromkeys(("epsilon", "delta", "unit", "scope", "record", "views"))
    found = {"epsilon": privacy.epsilon, "delta": privacy.delta, "unit": privacy.unit}
    if privacy.of_records:
        # With scope `shared`, a client's own model has learned without noise.
        views = ["server", "sum", *(["model"] if privacy.scope == "all" else [])]
        return found | {"scope": privacy.scope, "record": privacy.epsilon, "views": views}
    # A server that adds the noise itself has seen the updates without; a client's own model has none in any case.
    return found | {"scope": None, "record": replaced(config), "views": ["sum"]}


def replaced(config: RunConfig) -> float:
    """Return the ε of a run of unit client for a change within one client's data, at the run's δ."""
    shares = config.secure_aggregation.enabled
    noise = (share_noise if shares else server_noise)(config)
    return epsilon_of([Steps(1.0, noise / 2, 1, planned_rounds(config), shares)], config.privacy.delta)


def contradicted(result: Mapping[str, Any]) -> list[str]:
    """Return the views whose canaries prove a larger ε than the run's promise to them allows."""
    promise = result["stated"]
    if promise["epsilon"] is None or "canaries" not in result:
        return []
    views = result["canaries"]["views"]
    return [view for view in views if view in promise["views"] and views[view]["epsilon"] > promise["record"]]


def sentence(promise: Mapping[str, Any]) -> str:
    """Return what a run states, in words; "" if it states nothing."""
    if promise["epsilon"] is None:
        return ""
    if promise["unit"] == "record":
        return f"ε = {promise['epsilon']:g} for each record"
    return (
        f"ε = {promise['epsilon']:g} for each client as a whole, so ε = {promise['record']:.3g} for each of its records"
    )
