"""A dishonest server against a client that demands secure aggregation: what its policy refuses."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from test_server_against_client import Server, feddat, hospital, served, server

from feddat.app import secure_messages, versions
from feddat.app.grid import identify
from feddat.app.policy import PolicyError, check_settings, check_step
from feddat.config import PolicyConfig, load_config
from feddat.deploy import pki
from feddat.deploy.certify import client_certificate
from feddat.experiment.single.methods import resolve

assert feddat and hospital and served and server, "fixtures"
REQUIRED = PolicyConfig(secure_aggregation="required")


def settings(**values):
    return resolve(load_config(None, None, **{key.replace("__", "."): value for key, value in values.items()}))


def test_a_run_without_it_is_refused():
    with pytest.raises(PolicyError, match=r"policy\.secure_aggregation: required, but secure_aggregation\.enabled"):
        check_settings(REQUIRED, settings())
    check_settings(REQUIRED, settings(secure_aggregation__enabled=True))
    check_settings(PolicyConfig(), settings())


def test_a_client_can_ask_for_larger_sums():
    policy = PolicyConfig(bounds={"secure_aggregation.min_clients": [5, 100]})
    with pytest.raises(PolicyError, match=r"secure_aggregation\.min_clients is 3, expected 5 to 100"):
        check_settings(policy, settings(secure_aggregation__enabled=True))
    check_settings(policy, settings(secure_aggregation__enabled=True, secure_aggregation__min_clients=5))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"run": "r"}, "must name only its run, round and version"),
        ({"run": "r", "round": "1"}, "must name only its run, round and version"),
        ({"run": "r", "round": 1, "split": "train"}, "must name only its run, round and version"),
        ({"run": "r", "round": 31}, "round is 31, expected 1 to 30"),
    ],
)
def test_messages_of_a_sum_name_run_and_round_alone(config, problem):
    identify(1)
    message = Message(RecordDict({"config": ConfigRecord(config | versions.told())}), 1, "query.share")
    with pytest.raises(PolicyError, match=problem):
        check_step(settings(secure_aggregation__enabled=True), message)
    good = Message(secure_messages.step_content("r", 1), 1, "query.share")
    check_step(settings(secure_aggregation__enabled=True), good)
    with pytest.raises(PolicyError, match=r"secure_aggregation\.enabled is false"):
        check_step(settings(), good)


class SumServer(Server):
    """A server whose client has a node with keys."""

    keys = True

    def trained(self, run, settings):
        """Return the update of an honest first round of a run, as the client masks it."""
        reply = self.ask("train", settings, foundation=self.foundation(settings), run=run)
        assert set(reply.content) == {"metrics", "sum"}
        return np.fromfile(self.place / "state" / run / "ann" / "sum.f32", np.float32)

    def ask_step(self, step, settings=None, **values):
        return self._send(secure_messages.step_content("r1", 1, **values), f"query.{step}", self.context(settings))

    def context(self, settings=None):
        node = {"client": "ann", "data": str(self.file)} | ({"keys": str(self.place)} if self.keys else {})
        return Context(1, 1, node, RecordDict(), self.settings(settings or {}))

    def _send(self, content, kind, context):
        return super()._send(content, kind, self.context({k: v for k, v in context.run_config.items() if k in CHANGED}))


ON = {"secure_aggregation.enabled": True}
CHANGED = {*ON, "privacy.secret_seeds", "seed"}


@pytest.fixture
def demanding(hospital, tmp_path):
    """Return a server whose client demands secure aggregation and has a certificate of its consortium."""
    server = SumServer(hospital, tmp_path)
    server.site(approval="first-use", secure_aggregation="required")
    authority = pki.new_authority("consortium")
    key = pki.new_key()
    pki.write_key_pair(tmp_path, "node", key)
    pki.write_certificate(tmp_path / "node.crt", client_certificate(authority, "ann", key.public_key()))
    pki.write_certificate(tmp_path / "ca.crt", authority.certificate)
    return server


def test_an_update_leaves_as_an_offer_alone(demanding):
    reply = demanding.ask("train", ON, foundation=demanding.foundation(ON))
    assert set(reply.content) == {"metrics", "sum"}
    assert 500 < len(reply.content["sum"]["bytes"]) < 1000
    # A neighbour that the server made up gets no share; the server learns only that a certificate is refused.
    names = ["ann", "bob", "cid"]
    masks = bytes([9] * 32) + bytes([8] * 32)
    values = {"names": "\n".join(names), "masks": masks}
    fresh = {"fresh.names": ["bob", "cid"], "fresh": [bytes([7] * 32), bytes([6] * 32)]}
    refused = demanding.ask_step("share", ON, **values, **fresh)
    assert refused.has_error() and refused.error.reason == "refused: a client's certificate"


def test_without_it_or_without_keys_there_is_no_update(demanding):
    reply = demanding.ask("query", {})
    assert reply.has_error() and reply.error.reason == "refused: policy"
    demanding.keys = False
    reply = demanding.ask("query", ON)
    assert reply.has_error() and reply.error.reason == "refused: policy"


def test_a_key_certified_by_another_authority_is_refused(demanding, caplog):
    pki.write_certificate(demanding.place / "ca.crt", pki.new_authority("another").certificate)
    reply = demanding.ask("query", ON)
    assert reply.has_error() and reply.error.reason == "refused: a client's certificate"
    assert "node.crt: not signed by this consortium's authority" in caplog.text


@pytest.mark.parametrize("asks", [{}, {"privacy.secret_seeds": False}, {"seed": 7}], ids=["usual", "no secret", "seed"])
def test_a_second_run_with_the_same_settings_gives_another_update(demanding, asks):
    """With the same one, the sums of five clients in one run and of four in another give the fifth one's away."""
    updates = [demanding.trained(run, ON | asks) for run in ("r1", "r2")]
    assert len(updates[0]) == len(updates[1]) > 100
    one, other = (update / np.linalg.norm(update) for update in updates)
    assert abs(float(one @ other)) < 0.9


def test_the_administrator_is_told_of_a_run_with_the_settings_of_another(server, feddat):
    server.site()
    for run, settings in (("r2", ON), ("r3", ON), ("r4", ON | {"train.lr": 0.005}), ("r5", {})):
        server.ask("query", settings, run=run)
    feddat("r2")
    told = {run: feddat(run)[1].splitlines() for run in ("r3", "r4", "r5")}
    warning = "  warning: the same settings as run r2; the server can compare the sums of both"
    assert [line for line in told["r3"] if "warning" in line] == [warning]
    assert not any("warning" in line for run in ("r4", "r5") for line in told[run])
