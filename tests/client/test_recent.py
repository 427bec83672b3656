from small_clients import same, vqa_client

from feddat.client.prefixes import PrefixCache
from feddat.client.received import Received
from feddat.client.recent import Recent
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant


class Client:
    def __init__(self):
        self.released = 0

    def release(self):
        self.released += 1


def test_of_more_clients_than_may_keep_theirs_only_the_last_one_does():
    clients = [Client() for _ in range(3)]
    recent = Recent(2, clients=3)
    for client in clients:
        recent.turn(client)
        recent.turn(client)
    assert [client.released for client in clients] == [1, 1, 0]


def test_the_last_ones_keep_theirs():
    a, b, c = Client(), Client(), Client()
    recent = Recent(2, clients=2)
    for client in (a, b, a, c):
        recent.turn(client)
    assert [client.released for client in (a, b, c)] == [0, 1, 0]
    recent.turn(b)
    assert [client.released for client in (a, b, c)] == [1, 1, 0]


def test_clients_that_let_go_between_turns_train_the_same(process):
    """Two clients take turns, with room for both and with room for one."""
    results = []
    for limit in (2, 1):
        fresh = process()
        shared, recent, prefixes = fresh.initial(), Recent(limit, clients=2), PrefixCache(2**20)
        clients = [
            Participant(
                name, [vqa_client(name)], fresh.config, fresh.backbone, fresh.adapters, fresh.algorithm,
                PersonalStore(fresh.root, name), prefixes, recent,
            )
            for name in ("a", "b")
        ]  # fmt: skip
        for round in (1, 2):
            sent = [client.fit(shared, round).shared for client in clients]
            scores = [client.evaluate(Received(shared, round), "test").scores for client in clients]
        results.append((sent, scores))
        held = [bool(member._heads or member._prepared) for client in clients for member in client.members.values()]
        assert held == [limit == 2, True]
        assert {key[0] for key in prefixes._kept} == ({"a", "b"} if limit == 2 else {"b"})
    (sent, scores), (sent_again, scores_again) = results
    assert all(same(a, b) for a, b in zip(sent, sent_again, strict=True))
    assert scores == scores_again
