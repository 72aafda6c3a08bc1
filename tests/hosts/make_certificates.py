"""Writes certificates, good ones and bad ones, into a folder. Run by the oracle's interpreter, which has cryptography.

    python make_certificates.py FOLDER

authority.pem is whom to trust. NAME.pem holds a key, its certificate and what leads to the authority.
"""

from __future__ import annotations

import datetime
import ipaddress
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017 - the oracle's Python may be 3.10
DAY = datetime.timedelta(days=1)
LOOPBACK = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1"))]

Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def name(text: str) -> x509.Name:
    """A name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make(
    subject: str,
    signer: Signer | None = None,
    *,
    names: list[x509.GeneralName] | None = None,
    days: tuple[int, int] = (-2, 30),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
) -> Signer:
    """A certificate, by itself where there is no signer; of an authority where there are no names."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer, issuer_key = (name(subject), key) if signer is None else (signer[0].subject, signer[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + days[0] * DAY)
        .not_valid_after(NOW + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()), key


def write(path: Path, made: Signer, *chain: Signer) -> None:
    """The key, its certificate, and those behind it."""
    key = made[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(key + b"".join(one[0].public_bytes(serialization.Encoding.PEM) for one in (made, *chain)))


def main(folder: Path) -> None:
    """All of them."""
    authority = make("authority")
    (folder / "authority.pem").write_bytes(authority[0].public_bytes(serialization.Encoding.PEM))
    middle = make("intermediate", authority)
    old = make("expired intermediate", authority, days=(-9, -1))
    write(folder / "good.pem", make("good", middle, names=LOOPBACK), middle)
    write(folder / "expired.pem", make("expired", middle, names=LOOPBACK, days=(-9, -1)), middle)
    write(folder / "not_yet.pem", make("not yet", middle, names=LOOPBACK, days=(1, 9)), middle)
    write(folder / "wrong_name.pem", make("wrong", middle, names=[x509.DNSName("pds.example.com")]), middle)
    write(folder / "part_of_a_name.pem", make("part", middle, names=[x509.DNSName("local*")]), middle)
    write(folder / "name_in_subject.pem", make("localhost", middle, names=[x509.DNSName("other.example.com")]), middle)
    address = x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
    write(folder / "name_in_subject_only.pem", make("localhost", middle, names=[address]), middle)
    write(folder / "self_signed.pem", make("self-signed", names=LOOPBACK))
    write(folder / "stranger.pem", make("stranger's", make("a stranger"), names=LOOPBACK))
    write(folder / "no_chain.pem", make("no chain", middle, names=LOOPBACK))
    write(folder / "old_chain.pem", make("old chain", old, names=LOOPBACK), old)
    write(folder / "for_clients.pem", make("c", middle, names=LOOPBACK, usage=ExtendedKeyUsageOID.CLIENT_AUTH), middle)
    leaf = make("leaf", middle, names=LOOPBACK)
    write(folder / "signed_by_a_leaf.pem", make("below", leaf, names=LOOPBACK), leaf, middle)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
