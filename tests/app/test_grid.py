import pytest
from fakes import Adder, app_of, shared
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from feddat.app import messages
from feddat.app.client import client_name
from feddat.app.grid import InProcessGrid


def grid_of(*participants) -> InProcessGrid:
    return InProcessGrid(app_of(*participants), [participant.name for participant in participants])


def train_message(node: int) -> Message:
    content = messages.instruction_content(messages.to_arrays(shared()), messages.instruction_config(1, 1))
    return Message(content, node, "train")


def test_it_is_a_flower_grid_and_clients_take_turns_by_name():
    order = []

    class Loud(Adder):
        def fit(self, shared, round, extras=None):
            order.append(self.name)
            return super().fit(shared, round)

    grid = grid_of(Loud("cid"), Loud("ann"), Loud("bob"))
    assert isinstance(grid, Grid)
    replies = list(grid.send_and_receive([train_message(3), train_message(1), train_message(2)]))
    assert order == ["ann", "bob", "cid"]
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2, 3]


def test_push_and_pull_give_each_reply_once():
    grid = grid_of(Adder("ann"), Adder("bob"))
    ids = grid.push_messages([train_message(1), train_message(2)])
    assert len(grid.pull_messages(ids)) == 2
    assert grid.pull_messages(ids) == []


def test_an_exception_becomes_an_error_reply_and_the_others_go_on():
    class Broken(Adder):
        def fit(self, shared, round, extras=None):
            raise RuntimeError("no\nmemory")

    first, second = grid_of(Broken("ann"), Adder("bob")).send_and_receive([train_message(1), train_message(2)])
    assert first.error.reason == "RuntimeError: no memory"
    assert second.has_content()


def test_an_interrupt_is_not_swallowed():
    class Interrupted(Adder):
        def fit(self, shared, round, extras=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(grid_of(Interrupted("ann")).send_and_receive([train_message(1)]))


def test_flowers_own_strategy_runs_on_it():
    grid = grid_of(Adder("ann", 1), Adder("bob", 3))
    config = messages.instruction_config(1, 1, "test")
    strategy = FedAvg(arrayrecord_key="shared", weighted_by_key="num-examples")
    result = strategy.start(
        grid, messages.to_arrays(shared()), num_rounds=1, train_config=config, evaluate_config=config
    )
    assert result.arrays["up.bias"].numpy().tolist() == [2.0] * 4


def test_a_node_is_found_by_name_or_by_partition():
    def context(**config):
        return Context(1, 9, config, RecordDict(), {})

    assert client_name(context(client="bob")) == "bob"
    assert client_name(context(**{"partition-id": 1}), ["ann", "bob"]) == "bob"
    with pytest.raises(ValueError, match="node 9: its configuration names no client"):
        client_name(context(**{"partition-id": 2}), ["ann", "bob"])
