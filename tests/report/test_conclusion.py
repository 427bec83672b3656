"""A page's conclusion in words: which methods lead, and how far the runs support that."""

from made_up import summary

from feddat.report.conclusion import conclusion


def shifted(method, seed, by, **more):
    """Return a summary with each client's scores shifted by its entry in ``by``."""
    made = summary(method, seed)
    for client, move in zip(made["clients"].values(), by, strict=True):
        for route in client:
            client[route] += move
    return made | more


def test_clear_leads_and_clear_losses_are_named_with_their_intervals():
    runs = [summary(m, seed) for m in ("feddat", "fedavg", "local") for seed in (0, 1, 2)]
    # Levels of 66, 58 and 55: the same difference for every client and seed.
    assert conclusion(runs) == [
        "FedDAT is ahead of FedAvg by 8.0 points [+8.0, +8.0] and Local only by 11.0 points [+11.0, +11.0]."
    ]
    assert conclusion(runs, "local") == [
        "Local only is behind FedDAT by 11.0 points [−11.0, −11.0] and FedAvg by 3.0 points [−3.0, −3.0]."
    ]


def test_an_interval_that_includes_0_settles_nothing():
    runs = [summary("feddat", 0), shifted("fedavg", 0, (8, 20, -4, 8, 8))]  # FedDAT leads by 0, −12, 12, 0 and 0
    first, second = conclusion(runs)
    assert first.startswith("The difference of FedDAT to FedAvg (0.0 [")
    assert first.endswith("]) is not settled: the interval includes 0.")
    assert second == "One seed is a first look; use three or more to decide."


def test_short_training_is_called_short():
    runs = [summary(m, seed) | {"steps": 140.0} for m in ("feddat", "fedavg") for seed in (0, 1, 2)]
    assert conclusion(runs)[-1] == (
        "A client took 140 steps at most: this compares short training. Longer training can reverse the order."
    )
    assert len(conclusion([run | {"steps": 2370.0} for run in runs])) == 1


def test_one_method_alone_is_described_by_its_clients():
    assert conclusion([summary("fedavg")]) == [
        "FedAvg scores 60.0 % on average over 5 clients, from 58.0 % (art) to 62.0 % (scene)."
    ]


def test_without_shared_scores_nothing_is_said():
    assert conclusion([summary("feddat") | {"clients": {}}]) == []
