"""What ``feddat deploy init`` writes, and which problems ``feddat deploy check`` finds."""

import datetime
import http.server
import json
import os
import re
import shutil
import ssl
import threading

import pytest
import yaml

from feddat.data import readers
from feddat.deploy import pki
from feddat.deploy.check import check_client
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import node_arguments, read_server, write_consortium, write_server
from feddat.experiment.single.foundation import model_hashes

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c") / "consortium"
    server = write_consortium(folder, ["ann", "bob"], ["127.0.0.1"], 9092, ("vilt-mini", model_hashes("vilt-mini")))
    return folder, server


def test_every_side_gets_its_own_and_nobody_elses(consortium):
    folder, server = consortium
    keys = {str(path.relative_to(folder)) for path in folder.rglob("*.key")}
    assert keys == {"authority/ca.key", "server/server.key", "clients/ann/node.key", "clients/bob/node.key"}
    assert all((folder / key).stat().st_mode & 0o077 == 0 for key in keys)
    assert read_server(folder / "server") == server
    for name in server.clients:
        place = folder / "clients" / name
        pki.check_key_pair(place / "node.key", place / "node.pub")
        assert (server.path / "clients" / f"{name}.pub").read_bytes() == (place / "node.pub").read_bytes()
        assert yaml.safe_load((place / "client.yaml").read_text())["client"] == name
        assert os.access(place / "start.sh", os.X_OK)
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".md", ".yaml", ".service", ".sh")]
    assert not [text for text in texts if "{{" in text or "{%" in text]


def test_its_run_names_the_clients_and_nothing_of_their_data(consortium):
    from feddat.config import load_config

    config = load_config(consortium[1].path / "run.yaml")
    assert config.clients == {"ann": {}, "bob": {}}
    assert config.runtime.kind == "deployment"


def test_the_certificate_is_the_authoritys_and_for_the_host(consortium):
    folder, server = consortium
    authority = pki.read_certificate(folder / "clients" / "ann" / "ca.crt")
    certificate = pki.read_certificate(server.path / "server.crt")
    pki.check_certificate(certificate, authority, "server.crt")
    stranger = pki.new_authority("someone else").certificate
    with pytest.raises(pki.CertificateError, match=r"server\.crt: not signed by this consortium's authority"):
        pki.check_certificate(certificate, stranger, "server.crt")


@pytest.mark.parametrize(("shift", "reason"), [(-60, "expired on"), (60, "valid only from .* is the clock right")])
def test_a_certificate_out_of_its_time_is_refused(shift, reason):
    authority = pki.new_authority("x")
    other, _ = pki.server_certificate(authority, ["h"], days=30, now=NOW + datetime.timedelta(days=shift))
    with pytest.raises(pki.CertificateError, match=reason):
        pki.check_certificate(other, authority.certificate, "server.crt")


@pytest.mark.parametrize(
    ("clients", "reason"), [(["a", "a"], "different names"), ([], "got none"), (["a/b"], "expected letters")]
)
def test_names_that_cannot_be_are_refused(tmp_path, clients, reason):
    with pytest.raises(DeployError, match=reason):
        write_consortium(tmp_path / "c", clients, ["h"])


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("10.0.0.1:9092", "expected a name or an address alone; --port 9092 gives the port"),
        ("https://fl.example", "expected a name or an address, not a web address"),
        ("münchen.example", "expected its ASCII form, xn--mnchen-3ya.example"),
        ("[::1]", "neither a name nor an address"),
        *((host, "neither a name nor an address") for host in ("a b", "*.example", "-x", "10.0.0.300", "10.1", "a..b")),
        ("a" * 64, "neither a name nor an address"),
    ],
)
def test_hosts_that_no_client_could_reach_are_refused(tmp_path, host, reason):
    """Before anything is written, and also if they were put into server.yaml later."""
    with pytest.raises(DeployError, match=re.escape(reason)):
        write_server(tmp_path / "c", ["localhost", host])
    assert not (tmp_path / "c").exists()
    server, _ = write_server(tmp_path / "c", ["fl_server", "FL.Example.org", "10.0.0.1"])
    assert read_server(server.path).hosts == ("fl_server", "FL.Example.org", "10.0.0.1")
    (server.path / "server.yaml").write_text(json.dumps({"hosts": [host], "port": 9092}))
    with pytest.raises(DeployError, match=rf"server\.yaml: host .*{re.escape(reason)}"):
        read_server(server.path)


def test_clients_reach_no_server_by_its_ipv6_address(tmp_path):
    with pytest.raises(DeployError, match="host fe80::1: the server does not listen on IPv6"):
        write_server(tmp_path / "c", ["fe80::1", "localhost"])
    write_server(tmp_path / "c", ["localhost", "fe80::1"])


def test_a_folder_in_use_is_left_alone(consortium):
    with pytest.raises(DeployError, match="not empty"):
        write_consortium(consortium[0], ["ann"], ["h"])


def test_a_node_is_told_its_name_and_its_file(tmp_path):
    arguments = node_arguments(tmp_path, "h:1", "ann", tmp_path / "client.yaml")
    assert arguments[arguments.index("--node-config") + 1] == (
        f'client="ann" keys="{tmp_path}" data="{tmp_path / "client.yaml"}"'
    )


# What `check` finds on a machine with one problem, or none.


@pytest.fixture
def client(consortium, tmp_path, world):
    """Return a function that checks a filled-in client folder against a stand-in server, which answers over TLS."""
    folder, server = consortium
    place = tmp_path / "ann"
    place.mkdir()
    for path in (folder / "clients" / "ann").iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    (place / "node.key").chmod(0o600)

    class Health(http.server.BaseHTTPRequestHandler):
        ahead = 0

        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Date", self.date_time_string(datetime.datetime.now().timestamp() - self.ahead))
            self.end_headers()

        def log_message(self, *args): ...

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.path / "server.crt", server.path / "server.key")
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    settings = {
        "client": "ann",
        "server": f"127.0.0.1:{httpd.server_port}",
        "data": {split: str(world / "ann" / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "state": "state",
        "policy": {"min_examples": 10, "min_questions": 3},
    }

    def check(quick=False, **changes):
        (place / "client.yaml").write_text(yaml.safe_dump(settings | changes))
        return {finding.what: finding for finding in check_client(place, quick)}

    check.folder, check.handler = place, Health
    yield check
    httpd.shutdown()
    httpd.server_close()


def test_where_nothing_is_missing_all_is_good(client):
    found = client()
    first = ["client.yaml", "keys", "data", "pictures", "policy"]
    assert list(found) == [*first, "model", "state", "authority", "server", "clock"]
    assert not [finding for finding in found.values() if not finding.good]
    assert found["data"].found == "train 10, validation 3, test 6 examples, task vqa"


def bad(found):
    return {what: finding.found for what, finding in found.items() if not finding.good}


def test_data_that_cannot_be_read(client, tmp_path):
    problems = bad(client(data={"train": str(tmp_path / "none.jsonl"), "test": str(tmp_path / "none.jsonl")}))
    assert list(problems) == ["data", "pictures", "policy"]
    assert "none.jsonl" in problems["data"]


def test_every_picture_is_read_unless_it_has_to_be_quick(client, world, tmp_path):
    shutil.copytree(world / "ann", tmp_path / "data")
    for name in ("train7", "test2"):
        (tmp_path / "data" / f"{name}.png").write_bytes(b"no picture")
    data = {split: str(tmp_path / "data" / f"{split}.jsonl") for split in ("train", "validation", "test")}
    found = client(data=data)
    assert list(bad(found)) == ["pictures"]
    assert found["pictures"].found.startswith(f"2 of {10 + 3 + 6} cannot be read; the first: image ")
    assert "train7.png: cannot be decoded" in found["pictures"].found
    quick = client(data=data, quick=True)
    assert quick["pictures"].found == "3 read, the first of each split; leave out --quick to read all"


def test_data_is_read_once_for_all_checks(client, monkeypatch):
    asked = []

    def once(name, data, read=readers.read_client):
        asked.append(name)
        return read(name, data)

    monkeypatch.setattr(readers, "read_client", once)
    assert not bad(client())
    assert asked == ["ann"]


def test_data_that_is_too_little_for_the_policy(client):
    few = "split validation has 3 examples, but policy.min_questions is 4; runs will be refused"
    assert bad(client(policy={"min_examples": 10, "min_questions": 4})) == {"policy": few}
    few = "split train has 9 examples, but policy.min_examples is 10; runs will be refused"
    assert bad(client(policy={"min_examples": 10, "min_questions": 3, "train_examples": 9})) == {"policy": few}


def test_another_model(client, world):
    problems = bad(client(model=str(world / "model")))
    assert list(problems) == ["model"]
    expected = json.loads((client.folder / "model.json").read_text())["weights"]
    assert f"but the consortium's is {expected}" in problems["model"]


def test_a_server_that_is_not_there_or_not_ours(client, tmp_path):
    assert "not reachable" in bad(client(server="127.0.0.1:1"))["server"]
    pki.write_certificate(client.folder / "ca.crt", pki.new_authority("someone else").certificate)
    problems = bad(client())
    assert "its certificate is refused" in problems["server"]


def test_keys_of_two_pairs_or_open_to_others(client):
    (client.folder / "node.key").chmod(0o644)
    assert "others on this machine can read it" in bad(client())["keys"]
    pki.write_key_pair(client.folder, "other")
    (client.folder / "node.pub").write_bytes((client.folder / "other.pub").read_bytes())
    assert "is not the other half" in bad(client())["keys"]


def test_a_clock_that_the_server_would_refuse(client):
    client.handler.ahead = 60
    assert re.match(r"6\d s ahead of the server's, which will refuse this node", bad(client())["clock"])


@pytest.mark.parametrize("level", ["central", "client"])
def test_a_consortium_that_requires_privacy_of_clients_asks_for_it(tmp_path, level):
    from feddat.app.policy import PolicyError, check_settings
    from feddat.client.private_rules import check_privacy
    from feddat.config import PolicyConfig, load_config
    from feddat.experiment.single.methods import resolve

    write_consortium(tmp_path / "c", ["ann", "bob", "cid"], ["127.0.0.1"], 9092, privacy=(level, 3.0))
    run = load_config(tmp_path / "c" / "server" / "run.yaml")
    assert (run.privacy.epsilon, run.privacy.unit, run.share_metrics) == (3.0, "client", "none")
    assert run.secure_aggregation.enabled == (level == "client")
    check_privacy(resolve(run))
    client = yaml.safe_load((tmp_path / "c" / "clients" / "ann" / "client.yaml").read_text())
    policy = PolicyConfig.model_validate(client["policy"])
    wanted = (level, 3.0, "required" if level == "client" else "optional")
    assert (policy.privacy, policy.epsilon, policy.secure_aggregation) == wanted
    assert policy.secret_seeds
    check_settings(policy, resolve(run))
    for less in ({"privacy.epsilon": None}, {"privacy.epsilon": 4.0}, {"privacy.unit": "record"}):
        with pytest.raises(PolicyError, match=r"^policy\.(privacy|epsilon)"):
            check_settings(policy, resolve(run.updated(less)))
    if level == "client":
        with pytest.raises(DeployError, match="clients: 2, expected at least 3: --privacy client needs secure sums"):
            write_consortium(tmp_path / "two", ["ann", "bob"], ["127.0.0.1"], 9092, privacy=(level, 3.0))
        with pytest.raises(PolicyError, match=r"^policy\.(privacy|secure_aggregation): "):
            check_settings(policy, resolve(run.updated({"secure_aggregation.enabled": False})))


@pytest.mark.parametrize("level", ["shared", "all"])
def test_a_consortium_that_requires_privacy_asks_for_it(tmp_path, level):
    from feddat.app.policy import check_settings
    from feddat.client.private_rules import check_privacy
    from feddat.config import PolicyConfig, load_config
    from feddat.experiment.single.methods import resolve

    write_consortium(tmp_path / "c", ["ann"], ["127.0.0.1"], 9092, privacy=(level, 3.0))
    run = load_config(tmp_path / "c" / "server" / "run.yaml")
    assert (run.privacy.epsilon, run.privacy.scope, run.share_metrics) == (3.0, level, "none")
    check_privacy(resolve(run))
    client = yaml.safe_load((tmp_path / "c" / "clients" / "ann" / "client.yaml").read_text())
    policy = PolicyConfig.model_validate(client["policy"])
    assert (policy.privacy, policy.epsilon, client["share_metrics"]) == (level, 3.0, "none")
    check_settings(policy, resolve(run))


def test_a_client_keeps_its_seed_to_itself_whatever_the_run_asks_for(tmp_path):
    """The server need not know: settings with and without it count as the same."""
    from feddat.config import load_config
    from feddat.experiment.single.federation import participant_names
    from feddat.experiment.single.foundation import load_foundation
    from feddat.experiment.single.methods import resolve
    from feddat.site import read_site

    write_consortium(tmp_path / "c", ["ann", "bob"], ["127.0.0.1"], 9092)
    path = tmp_path / "c" / "clients" / "ann" / "client.yaml"
    asked = resolve(load_config(None, None, clients={"ann": {}}, benchmark=None))
    for own, wanted in ((False, False), (True, False), (False, True), (True, True)):
        path.write_text(
            path.read_text().replace(f"secret_seeds: {str(not own).lower()}", f"secret_seeds: {str(own).lower()}")
        )
        run = asked.updated({"privacy.secret_seeds": wanted})
        settings = read_site(path).applied(run)
        assert settings.privacy.secret_seeds == (own or wanted)
        assert participant_names(settings) == ["ann"]
        assert load_foundation(settings).model["settings"] == load_foundation(asked).model["settings"]
