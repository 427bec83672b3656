"""Clients in a sum know each other by certificates of the consortium, whatever the server says."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from feddat.deploy import pki
from feddat.deploy.certify import Issued, client_certificate
from feddat.deploy.enrolment import ClientRequest, Invitation, new_request, read_client_request, write_invitation
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import write_consortium
from feddat.privacy.secure_sum.identity import Identity, IdentityError

CHANNEL = bytes(range(32))


@pytest.fixture(scope="module")
def authority():
    return pki.new_authority("consortium")


def member(authority, name, **values):
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = client_certificate(authority, name, key.public_key(), **values)
    return Identity(name, key, certificate.public_bytes(Encoding.DER), authority.certificate)


def test_a_client_is_known_by_its_certificate_in_one_run_with_one_key(authority):
    ann, bob = member(authority, "ann"), member(authority, "bob")
    shown = ann.credential("run", CHANNEL)
    bob.check("run", "ann", CHANNEL, shown)
    for run, name, channel, problem in (
        ("other", "ann", CHANNEL, "not signed by its certificate's"),
        ("run", "ann", CHANNEL[::-1], "not signed by its certificate's"),
        ("run", "cid", CHANNEL, "client cid's certificate: of ann, expected cid"),
    ):
        with pytest.raises(IdentityError, match=problem):
            bob.check(run, name, channel, shown)
    for torn in (b"", shown[:-1], shown[:100], b"\xff" * 10_000):
        with pytest.raises(IdentityError, match="client ann"):
            bob.check("run", "ann", CHANNEL, torn)


def test_a_server_cannot_invent_a_client(authority):
    """A server's certificate does not pass as a client's, nor does one of the server's own authority."""
    bob = member(authority, "bob")
    certificate, key = pki.server_certificate(authority, ["ann"])
    server = Identity("ann", key, certificate.public_bytes(Encoding.DER), authority.certificate)
    with pytest.raises(IdentityError, match="client ann's certificate: not one of a client"):
        bob.check("run", "ann", CHANNEL, server.credential("run", CHANNEL))
    own = member(pki.new_authority("consortium"), "ann")
    with pytest.raises(IdentityError, match="not signed by this consortium's authority"):
        bob.check("run", "ann", CHANNEL, own.credential("run", CHANNEL))


def test_a_certificate_that_is_out_of_its_time_is_refused(authority):
    bob = member(authority, "bob")
    for now in (datetime.now(UTC) - timedelta(days=500), datetime.now(UTC) + timedelta(days=2)):
        ann = member(authority, "ann", now=now)
        with pytest.raises(IdentityError, match=r"client ann's certificate: good from .* only"):
            bob.check("run", "ann", CHANNEL, ann.credential("run", CHANNEL))


def test_a_new_consortium_has_all_that_clients_need(tmp_path):
    write_consortium(tmp_path / "c", ["ann", "bob"], ["127.0.0.1"])
    ann, bob = (Identity.read(tmp_path / "c" / "clients" / name, name) for name in ("ann", "bob"))
    ann.check("run", "bob", CHANNEL, bob.credential("run", CHANNEL))
    assert ann.certificate != bob.certificate
    assert len(ann.credential("run", CHANNEL)) < 1000


def test_a_clients_own_files_are_checked(tmp_path):
    write_consortium(tmp_path / "c", ["ann", "bob"], ["127.0.0.1"])
    ann, bob = (tmp_path / "c" / "clients" / name for name in ("ann", "bob"))
    with pytest.raises(IdentityError, match=r"node\.crt: of ann, expected eve"):
        Identity.read(ann, "eve")
    (ann / "node.key").write_bytes((bob / "node.key").read_bytes())
    with pytest.raises(IdentityError, match=r"node\.crt: not that of the key .*node\.key"):
        Identity.read(ann, "ann")
    (ann / "node.crt").unlink()
    with pytest.raises(IdentityError, match="No such file or directory; secure aggregation needs it"):
        Identity.read(ann, "ann")
    (ann / "node.crt").write_text("none")
    with pytest.raises(IdentityError, match="not a PEM certificate"):
        Identity.read(ann, "ann")


@pytest.fixture
def consortium(tmp_path):
    """Return the folder of a consortium of ann and bob."""
    write_consortium(tmp_path / "c", ["ann", "bob"], ["127.0.0.1"])
    return tmp_path / "c"


@pytest.fixture
def issued(consortium):
    return Issued(consortium / "authority", pki.read_authority(consortium / "authority"))


def requested(name, consortium, key=None, old=None):
    """Return a client's request as the authority reads it."""
    authority, path = pki.read_certificate(consortium / "authority" / "ca.crt"), consortium / "r.csr"
    pki.write_request(path, new_request(name, key or pki.new_key(), authority, old))
    return read_client_request(path, authority)


def test_a_name_has_one_certified_key_until_the_administrator_says_otherwise(consortium, issued):
    ann = pki.read_client_key(consortium / "clients" / "ann" / "node.key")
    certificate, replaced = issued.certify(requested("ann", consortium, ann))
    assert certificate.public_key() == ann.public_key() and not replaced, "the same key again, for example next year"
    other = pki.new_key()
    with pytest.raises(DeployError, match="client ann: a certificate was issued for another key, which did not sign"):
        issued.certify(requested("ann", consortium, other))
    with pytest.raises(DeployError, match="client eve: its key is certified for client ann"):
        issued.certify(requested("eve", consortium, ann), again=True)
    with pytest.raises(DeployError, match="'ann' and 'Ann' differ only in letter case"):
        issued.certify(requested("Ann", consortium), again=True)
    assert not issued.list.exists(), "what is refused revokes nothing"
    assert issued.certify(requested("ann", consortium, other), again=True)[1]
    newer = pki.new_key()
    assert issued.certify(requested("ann", consortium, newer, old=other))[1], "the old key has signed the request"
    for lost in (ann, other):
        with pytest.raises(DeployError, match="client ann: its key was revoked as the key of ann; make a new one"):
            issued.certify(requested("ann", consortium, lost), again=True)


def test_a_revoked_client_gets_another_certificate_only_if_the_administrator_says_so(consortium, issued):
    assert (issued.revoke("ann"), issued.revoke("ann")) == (1, 0)
    with pytest.raises(DeployError, match="client ann: its certificates were revoked; if it is the same institution"):
        issued.certify(requested("ann", consortium))
    issued.certify(requested("ann", consortium), again=True)
    with pytest.raises(DeployError, match=r"client eve: .* has no certificate of it; clients are ann, bob"):
        issued.revoke("eve")


def test_clients_refuse_a_certificate_that_their_list_names_as_revoked(consortium, issued):
    ann, bob = (consortium / "clients" / name for name in ("ann", "bob"))
    shown = Identity.read(ann, "ann").credential("run", CHANNEL)
    issued.revoke("ann")
    assert Identity.read(bob, "bob").check("run", "ann", CHANNEL, shown), "bob has no list yet"
    for place in (ann, bob):
        (place / "ca.crl").write_bytes(issued.list.read_bytes())
    with pytest.raises(IdentityError, match="client ann's certificate: revoked by the consortium's authority"):
        Identity.read(bob, "bob").check("run", "ann", CHANNEL, shown)
    with pytest.raises(IdentityError, match="client ann's certificate: revoked"):
        Identity.read(ann, "ann")
    issued.revoke("bob")
    with pytest.raises(IdentityError, match="client ann's certificate: revoked"):
        replace(Identity.read(bob, "bob"), revoked=revoked_in(issued)).check("run", "ann", CHANNEL, shown)


def revoked_in(issued):
    from feddat.privacy.secure_sum.identity import read_revoked

    found = read_revoked(issued.list, pki.read_certificate(issued.list.with_name("ca.crt")))
    assert len(found) == 2, "the list keeps what it had"
    return found


def test_only_the_authoritys_own_list_counts(consortium, tmp_path):
    other = Issued(tmp_path / "other", pki.new_authority("consortium"))
    other.certify(ClientRequest("ann", pki.new_key().public_key()))
    other.revoke("ann")
    place = consortium / "clients" / "bob"
    for content, problem in (
        (other.list.read_bytes(), "not signed by this consortium's authority"),
        (b"none", "not a PEM certificate revocation list"),
    ):
        (place / "ca.crl").write_bytes(content)
        with pytest.raises(IdentityError, match=rf"revoked certificates .*ca\.crl: {problem}"):
            Identity.read(place, "bob")


@pytest.mark.parametrize("name", ["server.crt", "ann.csr", "invitation.json"])
def test_files_of_a_consortium_are_replaced_as_a_whole(consortium, tmp_path, name):
    """The old file keeps its content under a second name, so a process that is killed leaves one of the two."""
    authority, path = pki.read_authority(consortium / "authority"), tmp_path / name
    write = {
        "server.crt": lambda: pki.write_certificate(path, pki.server_certificate(authority, ["localhost"])[0]),
        "ann.csr": lambda: pki.write_request(path, new_request("ann", pki.new_key(), authority.certificate)),
        "invitation.json": lambda: write_invitation(
            path, Invitation("localhost:9092", "vilt-mini", False, authority.certificate), authority.key
        ),
    }[name]
    write()
    before, old = path.read_bytes(), tmp_path / "old"
    old.hardlink_to(path)
    write()
    assert old.read_bytes() == before != path.read_bytes()


def certified(*arguments, code=0):
    from feddat.cli import main

    with pytest.raises(SystemExit) as exit:
        main(["deploy", "certify", *map(str, arguments)])
    assert exit.value.code == code


def test_the_command_certifies_only_a_key_whose_fingerprint_was_compared(consortium, tmp_path, capsys, monkeypatch):
    """A server that sends a key of its own in a client's name gets no certificate for it."""
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal for questions
    eve, keeper = tmp_path / "eve", consortium / "authority"
    eve.mkdir()
    key = pki.new_key()
    pki.write_key_pair(eve, "node", key)
    (eve / "ca.crt").write_bytes((keeper / "ca.crt").read_bytes())
    told = requested("eve", consortium, key).fingerprint
    request, options = consortium / "r.csr", ("--authority", keeper, "--out", eve / "node.crt")
    certified(request, *options, code=2)
    assert "compare it with the client's administrator, and give --fingerprint" in capsys.readouterr().err
    certified(request, *options, "--fingerprint", "SHA256:" + "A" * 43, code=2)
    assert "do not trust this file" in capsys.readouterr().err
    assert not (eve / "node.crt").exists() and not (keeper / "issued" / "eve").exists()
    certified(request, *options, "--fingerprint", told)
    shown = Identity.read(eve, "eve").credential("run", CHANNEL)
    Identity.read(consortium / "clients" / "ann", "ann").check("run", "eve", CHANNEL, shown)
    certified(request, "--authority", consortium / "clients" / "ann", "--fingerprint", told, code=2)
    assert "ca.key: No such file or directory" in capsys.readouterr().err


def test_the_command_replaces_a_key_and_revokes_the_earlier_one(consortium, capsys):
    ann, keeper = consortium / "clients" / "ann", consortium / "authority"
    before = (ann / "node.crt").read_bytes()
    told = ("--fingerprint", requested("ann", consortium).fingerprint)
    arguments = (consortium / "r.csr", "--authority", keeper, "--out", ann / "node.crt", *told)
    certified(*arguments, code=2)
    assert "--again revokes it and certifies this one" in capsys.readouterr().err
    assert (ann / "node.crt").read_bytes() == before
    occupied = (*arguments[:3], "--out", keeper, *told)
    certified(*occupied, "--again", code=2)
    assert "authority: Is a directory" in capsys.readouterr().err
    certified(*arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert "the certificates of ann's earlier keys are revoked" in said, "after a failure, it is said again"
    assert x509.load_pem_x509_crl((keeper / "ca.crl").read_bytes()).get_revoked_certificate_by_serial_number(
        x509.load_pem_x509_certificate(before).serial_number
    )


def test_the_command_revokes_certificates_where_the_authority_is(consortium, capsys):
    from feddat.cli import main

    with pytest.raises(SystemExit) as exit:
        main(["deploy", "revoke", "ann", "--authority", str(consortium / "authority")])
    assert exit.value.code == 0
    told = capsys.readouterr()
    assert "client ann: 1 certificate revoked" in told.out and "send ca.crl to all clients" in told.err
    assert (consortium / "server" / "clients" / "ann.pub").exists(), "the server's folder is another matter"


def test_a_certificate_says_what_it_is_good_for(authority):
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = client_certificate(authority, "ann", key.public_key(), days=3)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=3)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
