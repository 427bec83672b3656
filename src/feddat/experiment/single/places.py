"""Settings of places: those that leave a run's numbers as they are, and those that each client keeps for itself."""

from __future__ import annotations

from feddat import picture_settings

#: Settings that do not determine the numbers of a run: where it is written or computed, and checks of what is loaded.
PLACE_KEYS = frozenset({"name", "runs_dir", "data_cache", "device", "threads", "log", "runtime", "model_weights"})
#: Settings of ``server`` that may change when a run is resumed: how long it waits for clients, and the largest message.
PATIENCE_KEYS = frozenset({"min_clients", "wait", "deadline", "max_message"})
#: Keys or sections that a client with its own file never takes from the server: where its data, model and files are,
#: which device it computes on, and how much of its data it uses. (Every instruction contains the hash of the weights.
#: The setting differs when a run is resumed, since the run fills it in when it starts.)
CLIENTS_OWN = frozenset(
    {
        *(
            "name",
            "runs_dir",
            "benchmark",
            "root",
            "revisions",
            "clients",
            "data_cache",
            "device",
            "threads",
            "runtime",
            "model_weights",
            "adapter.start",
            "adapter.start_local",
        ),
        *("train_examples", "validation_examples", "test_examples", "split_clients", "data_seed", "server", "log"),
        "only_clients",
        *(f"pictures.{key}" for key in picture_settings.CLIENTS_OWN),
    }
)
