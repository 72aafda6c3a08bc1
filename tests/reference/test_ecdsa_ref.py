"""The reference for signatures against the interop suite."""

from __future__ import annotations

import base64

from tests import fixtures
from tests.reference.ecdsa_ref import verify


def test_published_signatures() -> None:
    """Valid signatures verify; high-S and DER ones do not."""
    cases = fixtures.interop("crypto/signature-fixtures.json")
    assert len(cases) == 6
    for case in cases:
        message = base64.b64decode(case["messageBase64"] + "==")
        signature = base64.b64decode(case["signatureBase64"] + "==")
        verdict = verify(case["publicKeyDid"], message, signature)
        assert (verdict == "ok") == case["validSignature"], case["comment"]
