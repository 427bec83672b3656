"""The page of an audit, for people who decide and need not know how attacks work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from feddat.audit.findings import properties, reconstruction
from feddat.audit.membership import COMBINED, CONTROL
from feddat.audit.promise import contradicted, sentence
from feddat.audit.statistics import LEVEL
from feddat.report import attack_plots, plots
from feddat.report.numbers import human_duration
from feddat.report.page import environment

#: View -> what the page calls it, and what it holds.
_VIEWS = {
    "server": ("The server", "It follows the protocol, keeps every message, and sees each client's update by itself."),
    "sum": (
        "Anyone who sees only sums",
        "Another client; or the server, if secure aggregation shows it the sum of all updates and no single one.",
    ),
    "model": ("Anyone who has a client's personal model", "The model and the head that a client would export."),
    CONTROL: (
        "Control: before the training",
        "The same attack on the model as it was before. It must find nothing: what it finds is a difference between "
        "the two lists of questions, and no leak.",
    ),
}
#: Attackers that the stated ε holds against -> what the page says of it.
_AGAINST = {
    "server, sum, model": "It holds against every attacker here.",
    "server, sum": "It holds against whoever sees messages, and not against whoever has a client's own model.",
    "sum": "It holds against whoever sees sums, and not against a server that sees single updates, or whoever has a "
    "client's own model.",
}
_OWN = " (clients draw from seeds that the attackers do not know)"
_SIGNALS = {
    "loss": "how much better the model answers it",
    "cosine": "whether the update points where the question pushes it",
    "others": "the same, beside the updates of other clients",
    "whitened": "the cosine, without what all questions share",
    "calibrated": "the same, beside the attacker's rehearsal",
    COMBINED: "loss and calibrated together",
}


def page(result: Mapping[str, Any], failures: Sequence[str], limited: bool) -> str:
    """Return the page.

    Args:
        result: of :func:`feddat.audit.run.audit`.
        failures: the limits that were exceeded (:func:`feddat.audit.limits.exceeded`).
        limited: whether there were limits.
    """
    return environment().get_template("audit.html").render(_context(result, failures, limited))


def best(result: Mapping[str, Any], view: str) -> tuple[str, Mapping[str, Any]]:
    """Return the signal with the highest AUC of a view, and its figures."""
    name, row = max(result["membership"][view].items(), key=lambda item: item[1]["auc"][0])
    return str(name), row


def view_name(view: str) -> str:
    """Return what the page calls a view."""
    return _VIEWS[view][0]


def _context(result: Mapping[str, Any], failures: Sequence[str], limited: bool) -> dict[str, Any]:
    membership = result["membership"]
    attackers = [view for view in membership if view != CONTROL]
    shown = {view: best(result, view) for view in [*attackers, CONTROL] if view in membership}
    curves = {_VIEWS[view][0]: row["roc"] for view, (_, row) in shown.items()}
    growing = {_VIEWS[v][0]: row["by_round"] for v, (_, row) in shown.items() if v not in ("model", CONTROL)}
    rows = {f"{_VIEWS[v][0]}: {signal}": row["auc"] for v, found in membership.items() for signal, row in found.items()}
    run = result["run"]
    return {
        "title": f"{run['title']} on {run['source']}",
        "light": plots.LIGHT,
        "tiles": _tiles(result, shown, attackers),
        "short": _short(result, shown, attackers),
        "failures": failures,
        "limited": limited,
        "level": f"{100 * LEVEL:g} %",
        "views": [
            {"heading": _VIEWS[view][0], "holds": _VIEWS[view][1], "rows": list(map(_row, _in_order(found)))}
            for view, found in _ordered(membership)
        ],
        "compared": _compared(result),
        "legend": list(curves),
        "roc": Markup(attack_plots.roc_curves(curves, "Members named over non-members wrongly named")),
        "growth": Markup(attack_plots.over_rounds(growing, result["attacked_rounds"], "AUC over rounds watched"))
        if growing and len(result["attacked_rounds"]) > 1
        else None,
        "forest": Markup(attack_plots.intervals(rows, 0.5, "AUC", "AUC of every attack with its interval")),
        "clients": Markup(_clients(shown)),
        "canaries": _canaries(result),
        "properties": properties(result),
        "reconstruction": reconstruction(result),
        "setting": _setting(result),
    }


def _ordered(membership: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(view, membership[view]) for view in _VIEWS if view in membership]


def _tiles(
    result: Mapping[str, Any], shown: Mapping[str, tuple[str, Mapping[str, Any]]], attackers: Sequence[str]
) -> list[tuple[str, str, str]]:
    tiles = []
    for view in attackers:
        auc, low, high = shown[view][1]["auc"]
        tiles.append(
            (_VIEWS[view][0], f"{100 * auc:.0f} of 100", f"right, coin: 50 ({100 * low:.0f} to {100 * high:.0f})")
        )
    if "canaries" in result:
        least = max(
            bound["epsilon"]
            for view, bound in result["canaries"]["views"].items()
            if view != "model" or len(attackers) == 1
        )
        stated = result["stated"]["record"]
        tiles.append(
            ("ε is at least", f"{least:.2f}", "none is stated" if stated is None else f"stated: at most {stated:.3g}")
        )
    if "reconstruction" in result:
        rebuilt = sum(row["recovered"] for row in result["reconstruction"]["this_run"].values())
        tiles.append(("Rebuilt from a message", str(rebuilt), "pieces, with this run's settings"))
    return tiles


def _short(
    result: Mapping[str, Any], shown: Mapping[str, tuple[str, Mapping[str, Any]]], attackers: Sequence[str]
) -> list[str]:
    sentences = []
    for view in attackers:
        _, row = shown[view]
        auc, low, high = row["auc"]
        named = row["tpr"]["0.01"][0]
        verdict = (
            "is no better than a coin, as far as this audit can tell"
            if low <= 0.5 <= high
            else f"picks the question that was trained on in {100 * auc:.0f} of 100 cases; a coin does in 50"
        )
        sentences.append(
            f"{_VIEWS[view][0]} {verdict}. If it accepts to name one in 100 of the unused questions wrongly, it names "
            f"{100 * named:.1f} in 100 of the used ones rightly."
        )
    control = shown.get(CONTROL)
    if control is not None and not control[1]["auc"][1] <= 0.5 <= control[1]["auc"][2]:
        sentences.append(
            "The control is off: the two lists of questions differ before any training. A part of the figures above is "
            "this difference, and no leak."
        )
    stated = sentence(result["stated"])
    if "canaries" in result and stated:
        broken = contradicted(result)
        sentences.append(
            f"The run states {stated}; the canaries contradict it ({', '.join(map(view_name, broken))})."
            if broken
            else f"The run states {stated}; nothing that we found contradicts it."
        )
    elif not stated:
        sentences.append("The run states no ε: nothing bounds what a better attack would find.")
    return sentences


def _in_order(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return a view's figures by signal, in the order in which the page explains the signals."""
    return sorted(found.items(), key=lambda item: list(_SIGNALS).index(item[0]))


def _row(item: tuple[str, Mapping[str, Any]]) -> dict[str, str]:
    signal, row = item
    auc, low, high = row["auc"]
    return {
        "signal": signal,
        "what": _SIGNALS.get(signal, signal),
        "auc": f"{auc:.3f} ({low:.3f}–{high:.3f})",
        "strict": percent(row["tpr"]["0.001"]),
        "loose": percent(row["tpr"]["0.01"]),
    }


def percent(estimate: Sequence[float]) -> str:
    """Return a share with its interval, in percent."""
    value, low, high = (100 * part for part in estimate)
    return f"{value:.1f} % ({low:.1f}–{high:.1f})"


def _compared(result: Mapping[str, Any]) -> str:
    row = next(iter(next(iter(result["membership"].values())).values()))
    few = ""
    if row["non_members"] < 1000:
        few = (
            f" With {row['non_members']} non-members a rate of 0.1 % cannot be told from 0 %: that column allows no "
            "mistake at all."
        )
    return (
        f"{row['members']} members and {row['non_members']} non-members ({', '.join(result['unused'])}). Their clients "
        f"know all of their answers.{few}"
    )


def _clients(shown: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Markup:
    names = list(dict.fromkeys(client for _, row in shown.values() for client in row["clients"]))
    head = Markup("").join(Markup("<th>{}</th>").format(_VIEWS[view][0]) for view in shown)
    rows = []
    for client in names:
        cells = [row["clients"].get(client) for _, row in shown.values()]
        drawn = Markup("").join(Markup("<td>{}</td>").format("–" if c is None else f"{c:.3f}") for c in cells)
        rows.append(Markup("<tr><th>{}</th>{}</tr>").format(client, drawn))
    table = Markup("<table><thead><tr><th>client</th>{}</tr></thead><tbody>{}</tbody></table>")
    return table.format(head, Markup("").join(rows))


def _canaries(result: Mapping[str, Any]) -> dict[str, Any] | None:
    if "canaries" not in result:
        return None
    found, stated = result["canaries"], sentence(result["stated"])
    some = next(iter(found["views"].values()))
    said = "This run states none."
    if stated:
        said = f"This run states {stated}, at δ = {found['delta']:g}. {_AGAINST[', '.join(result['stated']['views'])]}"
    return {
        "stated": said,
        "rows": [
            {
                "view": view_name(view),
                "epsilon": f"{bound['epsilon']:.2f}",
                "right": f"{bound['right']} of {bound['guesses']}",
            }
            for view, bound in found["views"].items()
        ],
        "note": f"{some['canaries']} canaries, δ = {found['delta']:g}, {100 * found['confidence']:g} % confidence. A "
        "bound of 0 is no proof of privacy: with few canaries, or a weak attack, nothing is found.",
    }


def _setting(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    run, plan = result["run"], result["plan"]
    repeated = {
        True: "the adapter is the same as the run's, to the last bit",
        False: "the adapter differs from the run's: the machine, the package or the data is not the same",
        None: "there is no earlier run to compare with",
    }[run["repeated"]]
    return [
        ("Method", run["title"]),
        ("Model", f"{run['model']}, {run['peft']}"),
        ("Clients", ", ".join(f"{name} ({count} training questions)" for name, count in run["clients"].items())),
        ("Rounds", f"{run['rounds']}; attacked: {', '.join(map(str, result['attacked_rounds']))}"),
        ("Seeds", f"run {run['seed']}{_OWN if run.get('secret_seeds') else ''}, audit {plan['seed']}"),
        ("Run again for the audit", repeated),
        (
            "Attacker's own questions",
            "of the same kind, never trained on; a rehearsal has as many as a client, if there are",
        ),
        ("Time", human_duration(result["seconds"])),
    ]
