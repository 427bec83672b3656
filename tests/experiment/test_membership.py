"""Joining, admission, revocation and renewal: requests, keys and certificates, without a running server."""

import datetime
import io
import json
import os
import stat
import subprocess
import sys
from base64 import b64encode

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.admitted import admitted_keys, revoked_keys
from feddat.cli.program import main
from feddat.deploy import client_folder, pki, renewal
from feddat.deploy import link as superlink
from feddat.deploy.control import let_in
from feddat.deploy.enrolment import new_request, read_client_request, read_invitation
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import read_server, write_server
from feddat.deploy.membership import Members
from feddat.files import close_to_others
from feddat.site import read_site

HASHES = {"weights": "1" * 16}


@pytest.fixture
def server(tmp_path):
    return write_server(tmp_path / "c", ["fl.example.org"], 9092, ("vilt-mini", HASHES))[0]


@pytest.fixture
def authority(server):
    return pki.read_certificate(server.authority)


@pytest.fixture
def join(server, tmp_path):
    """Return a function that makes a client's folder, and returns its request to the server's administrator."""

    def joining(name, to=None):
        folder = tmp_path / (to or name)
        request, _ = client_folder.join(read_invitation(tmp_path / "c" / "invitation.json"), name, folder)
        return read_client_request(request, pki.read_certificate(server.authority))

    return joining


def public(folder):
    return pki.read_public_key(folder / "node.pub")


# Joining


def test_a_key_is_made_where_it_stays(server, join, tmp_path):
    request = join("north")
    place = tmp_path / "north"
    pki.check_key_pair(place / "node.key", place / "node.pub")
    assert request.key == public(place)
    assert list((tmp_path / "c").rglob("node.key")) == []
    secret = (place / "node.key").read_text().splitlines()[1]
    assert secret not in (place / "north.csr").read_text()
    site = read_site(place / "client.yaml")
    assert (site.client, site.server) == ("north", "fl.example.org:9092")
    assert json.loads((place / "model.json").read_text()) == {"model": "vilt-mini", **HASHES}
    assert pki.read_certificate(place / "ca.crt") == pki.read_certificate(server.authority)
    assert server.clients == read_server(server.path).clients == ()


def test_fingerprints_are_those_that_usual_tools_show(server, join, tmp_path):
    request = join("north")
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(tmp_path / "north" / "node.pub")], capture_output=True, text=True, check=True
    )
    assert request.fingerprint == shown.stdout.split()[1]


def test_an_altered_invitation_is_refused(server, tmp_path):
    path = tmp_path / "c" / "invitation.json"
    content = json.loads(path.read_text())
    for key, value in {"server": "evil.example.org:9092", "model": "evil/model", "hub_model": True}.items():
        path.write_text(json.dumps(content | {key: value}))
        with pytest.raises(DeployError, match="not signed by the authority that it names; it was altered"):
            read_invitation(path)
    for text in ("", "[]", "{}", "[" * 100_000, json.dumps(content | {"authority": 3})):
        path.write_text(text)
        with pytest.raises(DeployError, match=r"invitation .*(not an invitation|larger than)"):
            read_invitation(path)
    with pytest.raises(DeployError, match=r"none\.json: No such file"):
        read_invitation(tmp_path / "none.json")


def joined(capsys, place, name, *options):
    """Join a consortium from the command line; return the client's settings and what was said."""
    authority = pki.read_certificate(place / "c" / "server" / "ca.crt")
    fingerprint = ("--fingerprint", pki.certificate_fingerprint(authority))
    text = said(
        capsys, "join", place / "c" / "invitation.json", "--name", name, "-o", place / name, *fingerprint, *options
    )
    return read_site(place / name / "client.yaml"), text


def test_an_invitation_carries_the_consortiums_privacy(tmp_path, capsys):
    write_server(tmp_path / "c", ["fl.example.org"], 9092, ("vilt-mini", HASHES), privacy=("all", 3.0))
    site, text = joined(capsys, tmp_path, "north")
    assert (site.policy.privacy, site.policy.epsilon) == ("all", 3.0)
    assert (site.share_metrics, site.old_state, site.policy.secret_seeds) == ("none", "refuse", True)
    assert "client.yaml requires privacy all with epsilon at most 3 of every run" in text and "warning" not in text


@pytest.mark.parametrize(
    ("invited", "options", "required", "warning"),
    [
        (
            "all",
            ["--privacy", "none"],
            "none",
            "privacy none, but the invitation names all: it also takes part in runs",
        ),
        ("all", ["--privacy", "shared"], "shared", "privacy shared, but the invitation names all: it also takes part"),
        ("client", ["--privacy", "central"], "central", "but the invitation names client: it also takes part in runs"),
        ("client", ["--privacy", "all"], "all", "but the invitation names client: it refuses the consortium's runs"),
        ("shared", ["--epsilon", "5"], "shared", "allows epsilon 5, but the invitation names 3: it also takes part"),
        ("shared", ["--privacy", "all", "--epsilon", "2"], "all", None),
        ("none", ["--privacy", "all"], "all", None),
    ],
)
def test_what_is_asked_for_when_joining_counts_and_less_is_said_aloud(
    tmp_path, capsys, invited, options, required, warning
):
    write_server(tmp_path / "c", ["fl.example.org"], 9092, ("vilt-mini", HASHES), privacy=(invited, 3.0))
    site, text = joined(capsys, tmp_path, "north", *options)
    assert site.policy.privacy == required
    assert ("warning" in text) == (warning is not None)
    assert warning is None or warning in text


def test_an_invitation_of_an_earlier_version_names_no_privacy(server, tmp_path, capsys):
    assert "privacy" not in json.loads((tmp_path / "c" / "invitation.json").read_text())
    site, text = joined(capsys, tmp_path, "north")
    assert (site.policy.privacy, site.share_metrics, site.old_state) == ("none", "scores", "continue")
    assert "privacy" not in text


def test_an_invitation_with_an_unknown_level_is_refused(tmp_path):
    write_server(tmp_path / "c", ["fl.example.org"], 9092, ("vilt-mini", HASHES), privacy=("secret", 3.0))
    with pytest.raises(DeployError, match="not an invitation of"):
        read_invitation(tmp_path / "c" / "invitation.json")


@pytest.mark.parametrize("name", ["../north", "a/b", "-rf", "", "ü", "x" * 65, "a b"])
def test_names_that_cannot_be_a_clients(server, join, tmp_path, authority, name):
    with pytest.raises(DeployError, match="expected letters from a to z"):
        join(name, "folder")
    assert not (tmp_path / "folder").exists()
    if 0 < len(name) <= 64:  # also if somebody else wrote the request
        path = tmp_path / "r.csr"
        pki.write_request(path, new_request(name, pki.new_key(), authority))
        with pytest.raises(DeployError, match="expected letters from a to z"):
            read_client_request(path, authority)


def test_invalid_requests_are_refused(server, join, authority, tmp_path):
    path = tmp_path / "r.csr"
    stranger = pki.new_authority("another consortium").certificate
    pki.write_request(path, new_request("north", pki.new_key(), stranger))
    with pytest.raises(DeployError, match="for another consortium"):
        read_client_request(path, authority)
    who = [
        x509.NameAttribute(NameOID.COMMON_NAME, "north"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, pki.certificate_fingerprint(authority)),
    ]
    other_curve = x509.CertificateSigningRequestBuilder(x509.Name(who)).sign(
        ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()
    )
    pki.write_request(path, other_curve)
    with pytest.raises(DeployError, match="curve P-384"):
        read_client_request(path, authority)
    join("north")
    good = (tmp_path / "north" / "north.csr").read_bytes()
    lines = good.splitlines()
    torn = lines[-2][:-8] + bytes(lines[-2][-8:-4][::-1]) + lines[-2][-4:]  # inside the signature
    path.write_bytes(b"\n".join([*lines[:-2], torn, lines[-1]]))
    with pytest.raises((DeployError, pki.CertificateError), match=r"altered in transit|not a PEM certificate request"):
        read_client_request(path, authority)
    path.write_bytes(b"-" * 100_000)
    with pytest.raises(pki.CertificateError, match="larger than"):
        read_client_request(path, authority)


# Admission and revocation


def test_let_in_and_taken_out(server, join):
    members, north = Members(server), join("north")
    assert members.admit(north) == "is let in"
    assert members.admit(north) == "was let in already"
    members.admit(join("south"))
    assert read_server(server.path).clients == ("north", "south")
    assert set(admitted_keys(server.path)) == {"north", "south"}
    assert members.revoke("north") == north.fingerprint
    assert members.names() == ["south"]
    assert members.revoked() == {"north": [north.fingerprint]}
    with pytest.raises(DeployError, match="client north: not let in here; clients are south"):
        members.revoke("north")


def test_a_revoked_key_never_comes_back_under_any_name(server, join, authority, tmp_path):
    members = Members(server)
    north = join("north")
    members.admit(north)
    members.revoke("north")
    key = pki.read_client_key(tmp_path / "north" / "node.key")
    pki.write_request(tmp_path / "r.csr", new_request("other", key, authority))
    for request in (north, read_client_request(tmp_path / "r.csr", authority)):
        for again in (False, True):
            with pytest.raises(DeployError, match="its key was revoked as the key of north"):
                members.admit(request, again)
    assert members.names() == []


def test_a_name_is_one_keys_until_the_administrator_says_otherwise(server, join):
    members, north, eve = Members(server), join("north"), join("north", "eve")
    members.admit(north)
    with pytest.raises(DeployError, match=r"client north: has another key, SHA256:.*which did not sign this request"):
        members.admit(eve)
    with pytest.raises(DeployError, match="'north' and 'North' differ only in letter case"):
        members.admit(join("North", "capital"))
    members.revoke("north")
    with pytest.raises(DeployError, match="client north: was revoked; if it is the same institution, --again"):
        members.admit(eve)
    assert members.admit(eve, again=True) == "is let in"
    assert members.key("north") == eve.key


def test_one_key_has_one_name(server, join, authority, tmp_path):
    members = Members(server)
    members.admit(join("north"))
    key = pki.read_client_key(tmp_path / "north" / "node.key")
    pki.write_request(tmp_path / "r.csr", new_request("south", key, authority))
    with pytest.raises(DeployError, match="client south: its key belongs to client north"):
        members.admit(read_client_request(tmp_path / "r.csr", authority))


PRIVATE = [pki.new_key() for _ in range(4)]
STEP = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("ab"), st.integers(0, 3), st.none() | st.integers(0, 3), st.booleans()),
    st.tuples(st.just("revoke"), st.sampled_from("ab")),
)


@settings(max_examples=25)
@given(steps=st.lists(STEP, max_size=8))
def test_whatever_is_asked_a_name_has_one_key_and_no_revoked_one(steps, tmp_path_factory):
    server, _ = write_server(tmp_path_factory.mktemp("steps") / "c", ["h"])
    authority, members = pki.read_certificate(server.authority), Members(server)
    for kind, name, *rest in steps:
        before = admitted_keys(server.path)
        try:
            if kind == "revoke":
                members.revoke(name)
            else:
                number, old, again = rest
                path = server.path / "request.csr"
                signer = None if old is None else PRIVATE[old]
                pki.write_request(path, new_request(name, PRIVATE[number], authority, signer))
                members.admit(read_client_request(path, authority), again)
        except DeployError:
            assert admitted_keys(server.path) == before, "what is refused changes nothing"
        after = admitted_keys(server.path)
        assert len(set(after.values())) == len(after)
        assert not set(after.values()) & revoked_keys(server.path)
        lost = set(before.values()) - set(after.values())
        assert lost <= revoked_keys(server.path), "a key that is replaced or taken out never comes back"
        assert {n: k for n, k in after.items() if n != name} == {n: k for n, k in before.items() if n != name}


# A client's new key


def test_a_new_key_that_the_old_one_has_signed(server, join, authority, tmp_path):
    members, north, place = Members(server), join("north"), tmp_path / "north"
    members.admit(north)
    path, fingerprint = client_folder.renew_key(place, "north")
    assert public(place) == north.key, "the old one is used until the server takes the new one"
    assert client_folder.renew_key(place, "north") == (path, fingerprint), "a request may be on its way"
    renewal_request = read_client_request(path, authority)
    assert not members.is_new(renewal_request)
    assert members.admit(renewal_request) == "has a new key; the old one is revoked"
    assert members.key("north") == renewal_request.key != north.key
    assert members.revoked() == {"north": [north.fingerprint]}
    client_folder.use_new_key(place)
    pki.check_key_pair(place / "node.key", place / "node.pub")
    assert public(place) == renewal_request.key
    assert not client_folder.has_new_key(place)


def test_a_signature_for_another_key_name_or_consortium_renews_nothing(server, join, authority, tmp_path):
    members, place = Members(server), tmp_path / "north"
    members.admit(join("north"))
    old, new = pki.read_client_key(place / "node.key"), pki.new_key()
    stranger = pki.new_authority("another consortium").certificate
    good = new_request("north", new, authority, old)
    for key, name, consortium, signer in (
        (new, "north", authority, pki.new_key()),
        (new, "south", authority, old),
        (new, "north", stranger, old),
    ):
        request = new_request(name, key, consortium, signer)
        pki.write_request(tmp_path / "r.csr", request)
        try:
            asked = read_client_request(tmp_path / "r.csr", authority)
        except DeployError as error:
            assert "for another consortium" in str(error)
            continue
        assert members.is_new(asked)
    pki.write_request(tmp_path / "r.csr", good)
    asked = read_client_request(tmp_path / "r.csr", authority)
    taken = type(asked)("north", pki.new_key().public_key(), asked.proof)  # the proof of one key beside another key
    assert members.is_new(taken) and not members.is_new(asked)


def test_killed_in_the_middle_of_a_change_of_keys(join, server, tmp_path):
    join("north")
    place = tmp_path / "north"
    client_folder.renew_key(place, "north")
    (place / "node-new.key").replace(place / "node.key")  # and it was killed here
    client_folder.mend_key_pair(place)
    pki.check_key_pair(place / "node.key", place / "node.pub")


# What a SuperLink learns of the clients


class Link:
    """A stand-in for a SuperLink's Control API: it remembers nodes, and takes no key twice."""

    def __init__(self):
        self.known = []

    def nodes(self):
        return list(self.known)

    def register(self, name, key):
        from types import SimpleNamespace

        assert key not in [node.public_key for node in self.known]
        self.known.append(SimpleNamespace(node_id=len(self.known), name=name, public_key=key, status="registered"))

    def unregister(self, node):
        self.known[node].status = "unregistered"

    def names(self):
        return [node.name for node in self.known if node.status != "unregistered"]


def test_a_superlink_is_brought_to_what_the_folder_says(server, join):
    link, members = Link(), Members(server)
    for name in ("north", "south"):
        members.admit(join(name))
    assert let_in(link, server) == let_in(link, server) == []
    assert link.names() == ["north", "south"]
    members.revoke("south")
    assert let_in(link, server) == []
    assert link.names() == ["north"]
    assert len(revoked_keys(server.path)) == 1


class Contested(Link):
    """A SuperLink where another process registers every key first, under ``as_name`` or the same name."""

    def __init__(self, as_name=None):
        super().__init__()
        self.as_name = as_name

    def register(self, name, key):
        super().register(self.as_name or name, key)
        raise DeployError(f"client {name}: its key is refused: Public key already in use.")


def test_two_processes_may_admit_a_client_at_once(server, join):
    Members(server).admit(join("north"))
    link = Contested()
    assert let_in(link, server) == [] and link.names() == ["north"]
    with pytest.raises(DeployError, match="already in use"):
        let_in(Contested("south"), server)


def test_what_is_missing_is_not_taken_out_for_good(server, join):
    link, members = Link(), Members(server)
    members.admit(join("north"))
    let_in(link, server)
    key = server.path / "clients" / "north.pub"
    content = key.read_bytes()
    key.write_bytes(b"torn")
    problems = let_in(link, server)
    assert problems[0] == "client north: its key cannot be read"
    assert link.names() == ["north"]
    key.write_bytes(content)
    assert let_in(link, server) == []
    link.unregister(0)  # removed by somebody else
    assert let_in(link, server) == [
        "client north: its key was removed from this SuperLink for good; it needs a new one"
    ]


class Failing(Link):
    """A SuperLink whose storage fails (503), or that does not answer in time."""

    address = "127.0.0.1:9092"

    def __init__(self, *of):
        super().__init__()
        self.closed = False

    def wait(self, seconds):
        pass

    def nodes(self):
        request = httpx.Request("POST", "https://127.0.0.1:9092/v1/control/list-nodes")
        raise httpx.HTTPStatusError("503 Service\nmore", request=request, response=httpx.Response(503, request=request))

    def close(self):
        self.closed = True


class Slow(Failing):
    def nodes(self):
        return []

    def register(self, name, key):
        raise httpx.ReadTimeout("timed out")


@pytest.mark.parametrize(("link", "reason"), [(Failing, "503 Service"), (Slow, "timed out")])
def test_a_superlink_that_cannot_be_told_who_is_let_in_stops(server, join, monkeypatch, caplog, link, reason):
    """It would run on without its clients; as a service, it is started again."""
    Members(server).admit(join("north"))
    with pytest.raises(DeployError, match=rf"^SuperLink 127\.0\.0\.1:9092: clients cannot be let in: {reason}$"):
        let_in(link(), server)

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr("feddat.deploy.control.Control", link)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit, match="2"):
        superlink._let_in(server)
    assert f"{reason}; stopping the SuperLink" in caplog.text


def ssh_line(kind, *fields):
    """Return a line in OpenSSH's format: the kind of key, and its fields."""
    blob = b"".join(len(field).to_bytes(4) + field for field in (kind, *fields))
    return kind + b" " + b64encode(blob) + b" x\n"


NOT_KEYS = {
    "nothing": (b"", "not in OpenSSH's format"),
    "text": (b"none\n", "not in OpenSSH's format"),
    "a kind of key that nobody knows": (ssh_line(b"ssh-foo", b"x"), "not in OpenSSH's format"),
    "a compressed point": (
        ssh_line(b"ecdsa-sha2-nistp384", b"nistp384", b"\x02" + bytes(48)),
        "not in OpenSSH's format",
    ),
    "another kind of key": (
        ssh_line(b"ssh-ed25519", bytes(32)),
        "not on an elliptic curve",
    ),
}


@pytest.mark.parametrize("what", NOT_KEYS)
def test_a_file_that_holds_no_key_lets_nobody_in_and_stops_nothing(server, join, what):
    content, problem = NOT_KEYS[what]
    Members(server).admit(join("north"))
    for folder in (server.path / "clients", server.path / "revoked" / "east"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "east.pub").write_bytes(content)
    assert admitted_keys(server.path).keys() == {"north"}
    assert revoked_keys(server.path) == set()
    path = server.path / "clients" / "east.pub"
    with pytest.raises(pki.CertificateError, match=f"^public key {path}: {problem}$"):
        pki.read_public_key(path)


# The authority's key, and the server's certificate


def test_an_encrypted_authority_needs_its_passphrase(tmp_path):
    server, _ = write_server(tmp_path / "c", ["h"], passphrase="correct horse", authority=tmp_path / "stick")
    assert not list((tmp_path / "c").rglob("ca.key"))
    with pytest.raises(pki.PassphraseNeeded, match=r"ca\.key: encrypted; give --ca-passphrase-file"):
        pki.read_authority(tmp_path / "stick")
    with pytest.raises(pki.CertificateError, match="or the passphrase is wrong"):
        pki.read_authority(tmp_path / "stick", "another horse")
    authority = pki.read_authority(tmp_path / "stick", "correct horse")
    assert authority.certificate == pki.read_certificate(server.authority)


def test_a_certificate_signed_where_the_authority_is(server, tmp_path):
    before = (server.path / "server.key").read_bytes()
    request = renewal.request_certificate(server)
    assert (server.path / "server.key").read_bytes() == before, "the old one is used until there is a certificate"
    keeper = pki.read_authority(tmp_path / "c" / "authority")
    asked = renewal.read_server_request(request)
    assert asked.hosts == ("fl.example.org", "localhost", "127.0.0.1")
    asked.sign(keeper, tmp_path / "new.crt")
    renewal.install(server, tmp_path / "new.crt")
    certificate = pki.read_certificate(server.path / "server.crt")
    pki.check_certificate(certificate, keeper.certificate, "server.crt")
    assert (server.path / "server.key").read_bytes() != before
    with pytest.raises(DeployError, match=r"not for the key of .*server\.csr; have that request signed"):
        renewal.install(server, tmp_path / "new.crt")
    assert not list(server.path.glob("*new*")) and not request.exists()


def test_certificates_that_are_not_put_in_place(server, tmp_path):
    keeper = pki.read_authority(tmp_path / "c" / "authority")
    before = {path: path.read_bytes() for path in server.path.glob("server.*")}
    path = tmp_path / "x.crt"
    request = pki.read_request(renewal.request_certificate(server))
    for certificate, reason in (
        (pki.sign_request(pki.new_authority("someone else"), request), "not signed by this consortium's authority"),
        (pki.sign_request(keeper, request, now=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)), "expired on"),
        (pki.server_certificate(keeper, ["fl.example.org"])[0], "not for the key of"),
    ):
        pki.write_certificate(path, certificate)
        with pytest.raises((DeployError, pki.CertificateError), match=reason):
            renewal.install(server, path)
    (server.path / "server.csr").unlink()
    assert {path: path.read_bytes() for path in server.path.glob("server.*")} == before


def test_renewing_with_another_consortiums_authority(server, tmp_path):
    before = (server.path / "server.crt").read_bytes()
    with pytest.raises(pki.CertificateError, match="not signed by this consortium's authority"):
        renewal.renew(server, pki.new_authority("someone else"))
    assert (server.path / "server.crt").read_bytes() == before


# The commands


def said(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main(["deploy", *map(str, arguments)])
    found = capsys.readouterr()
    assert ended.value.code == code, found.err
    return found.out + found.err


def test_nobody_is_taken_whose_fingerprint_was_not_compared(server, join, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal for questions
    monkeypatch.chdir(tmp_path)
    invitation = "c/invitation.json"
    assert "and give --fingerprint" in said(capsys, "join", invitation, "--name", "north", code=2)
    fingerprint = pki.certificate_fingerprint(pki.read_certificate(server.authority))
    with_colons = ":".join(fingerprint[at : at + 2] for at in range(0, 64, 2)).lower()
    text = said(capsys, "join", invitation, "--name", "north", "--fingerprint", with_colons)
    key = pki.key_fingerprint(public(tmp_path / "north"))
    assert key in text
    admit = ("admit", "north/north.csr", "-f", server.path)
    assert "compare it with the client's administrator" in said(capsys, *admit, code=2)
    wrong = "SHA256:" + key.removeprefix("SHA256:").swapcase()
    assert "do not trust this file" in said(capsys, *admit, "--fingerprint", wrong, code=2)
    assert "client north is let in" in said(capsys, *admit, "--fingerprint", key)
    assert "the SuperLink is not running" in said(capsys, "revoke", "north", "-f", server.path)


def test_no_server_is_certified_whose_fingerprint_was_not_compared(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal for questions
    told = said(capsys, "renew", server.path)
    fingerprint = renewal.read_server_request(server.path / "server.csr").fingerprint
    assert f"the server's fingerprint: {fingerprint}" in told
    out, keeper = tmp_path / "new.crt", tmp_path / "c" / "authority"
    sign = ("sign", server.path / "server.csr", "--authority", keeper, "--out", out)
    told = said(capsys, *sign, code=2)
    assert "asks for a certificate for fl.example.org, localhost, 127.0.0.1" in told
    assert f"the server: fingerprint {fingerprint}: compare it with the server's administrator" in told
    pki.write_request(tmp_path / "evil.csr", pki.server_request(pki.new_key(), ["fl.example.org"]))
    evil = ("sign", tmp_path / "evil.csr", *sign[2:], "--fingerprint", fingerprint)
    assert "do not trust this file" in said(capsys, *evil, code=2)
    assert not out.exists()
    said(capsys, *sign, "--fingerprint", fingerprint)
    assert pki.read_certificate(out)


def test_requests_that_no_server_makes_are_refused(tmp_path):
    def request(key, names):
        made = x509.CertificateSigningRequestBuilder(x509.Name([]))
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pki.write_request(tmp_path / "x.csr", made.sign(key, hashes.SHA256()))
        return tmp_path / "x.csr"

    host, mail = [x509.DNSName("fl.example.org")], [x509.RFC822Name("a@example.org")]
    for names in ([], mail):
        with pytest.raises(pki.CertificateError, match="certificate request: names no hosts"):
            renewal.read_server_request(request(pki.new_key(), names))
    for curve in (ec.SECP256K1(), ec.SECP256R1(), ec.BrainpoolP256R1()):
        with pytest.raises(pki.CertificateError, match=r"x\.csr: its key is not on the elliptic curve P-384"):
            renewal.read_server_request(request(ec.generate_private_key(curve), host))
    assert renewal.read_server_request(request(pki.new_key(), host + mail)).hosts == ("fl.example.org",)


def test_init_says_where_the_authoritys_key_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal for questions
    place, file = tmp_path / "c", tmp_path / "passphrase"
    text = said(capsys, "init", "--host", "h", "-o", place)
    assert f"{place / 'authority' / 'ca.key'} is not encrypted" in text
    assert f"move {place / 'authority'} off this machine" in text
    file.write_text("correct horse battery\n")
    file.chmod(0o644)
    options = ("--host", "h", "-o", tmp_path / "d", "--ca-passphrase-file", file)
    assert "other users can read it; run chmod 600" in said(capsys, "init", *options, code=2)
    file.chmod(0o600)
    assert "is encrypted" in said(capsys, "init", *options)
    renew = ("renew", tmp_path / "d" / "server", "--authority", tmp_path / "d" / "authority")
    assert "encrypted; give --ca-passphrase-file" in said(capsys, *renew, code=2)
    assert "certificate is valid until" in said(capsys, *renew, "--ca-passphrase-file", file)
    file.write_text("short\n")
    assert "expected at least 12 characters" in said(
        capsys, "init", "--host", "h", "--ca-passphrase-file", file, code=2
    )


def test_a_renewed_key_needs_a_new_certificate_for_secure_sums(join, tmp_path, capsys):
    join("north")
    assert "secure sums" not in said(capsys, "renew", tmp_path / "north"), "it has no certificate"
    (tmp_path / "north" / "node.crt").write_text("of the old key")
    assert "node.crt is for the old key: secure sums refuse the new one" in said(capsys, "renew", tmp_path / "north")


@pytest.mark.parametrize(("variable", "open_to"), [(None, 0o077), ("027", 0o027)])
def test_a_command_writes_for_its_user_alone(tmp_path, capsys, monkeypatch, variable, open_to):
    """Files are closed to others under the umask 022; FEDDAT_UMASK can open them to the group."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal for questions
    monkeypatch.delenv("FEDDAT_UMASK", raising=False)
    if variable is not None:
        monkeypatch.setenv("FEDDAT_UMASK", variable)
    place, before = tmp_path / "c", os.umask(0o022)
    try:
        said(capsys, "init", "--host", "h", "--clients", "ann,bob", "-o", place)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (place, *place.rglob("*"))}
    assert not [path for path, mode in modes.items() if mode & open_to]
    assert modes[place / "server" / "run.yaml"] == 0o666 & ~open_to
    assert all(mode == 0o600 for path, mode in modes.items() if path.suffix == ".key")


def test_an_invalid_umask_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("FEDDAT_UMASK", "9")
    expected = "error: FEDDAT_UMASK: expected octal digits from 0 to 777, got '9'"
    assert said(capsys, "members", code=2).startswith(expected)


def test_what_lies_there_from_before_is_closed(tmp_path):
    (tmp_path / "state" / "run").mkdir(parents=True)
    (tmp_path / "state" / "run" / "round-1.safetensors").write_bytes(b"")
    (tmp_path / "public").write_bytes(b"")
    (tmp_path / "state" / "link").symlink_to(tmp_path / "public")
    before = os.umask(0o022)
    try:
        for path in tmp_path.rglob("*"):
            path.chmod(0o755)
        os.umask(0o077)
        close_to_others(tmp_path / "state")
        close_to_others(tmp_path / "none")
    finally:
        os.umask(before)
    open_to_others = {path.name for path in tmp_path.rglob("*") if path.stat().st_mode & 0o077}
    assert open_to_others == {"public", "link"}
