"""Tokens against keys: who is let in, and everything that is not a token of ours."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from actors.authenticator import TOKEN_BYTES, Authenticator, key_set, public_key, shared_key
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError

NOW = 1_000_000.0
SECRET = "a secret that has at least 32 bytes"
SHARED = Authenticator([shared_key(SECRET)])


@cache
def private(kind: str) -> Any:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    if kind == "ed":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "k1": ec.SECP256K1()}[kind])


def pem(kind: str) -> str:
    return str(private(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def claims(**fields: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": NOW + 60, **fields}


def token(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **fields: Any) -> str:
    given = {name: value for name, value in claims(**fields).items() if value is not None}
    return jwt.encode(given, key, algorithm, {} if kid is None else {"kid": kid})


def by_hand(header: dict[str, Any], payload: bytes, key: bytes | None, digest: str = "sha256") -> str:
    """A token that no library would make."""
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (json.dumps(header).encode(), payload))
    signature = b"" if key is None else hmac.digest(key, text, getattr(hashlib, digest))
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def why(authenticator: Authenticator, text: str, now: float = NOW) -> str:
    with pytest.raises(RequestError) as caught:
        authenticator.identify(text, now)
    assert (caught.value.code, caught.value.field) == (ErrorCode.UNAUTHORIZED, "token")
    assert text not in caught.value.message or len(text) < 8
    return caught.value.message.removeprefix("this token is refused: ")


def test_who_sent_it_and_what_it_may() -> None:
    found = SHARED.identify(token(heliograph={"subscribe": ["price.*"], "publish": ["chat.a"]}), NOW)
    assert (found.user, found.expires, found.ends) == ("alice", NOW + 60, NOW + 60)
    assert found.may_subscribe("price.EUR_USD")
    assert not found.may_subscribe("chat.a")
    assert found.grants.publish.allow("chat.a")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_shared_secret(algorithm: str) -> None:
    long = SECRET * 2
    good = Authenticator([shared_key(long)])
    assert good.identify(token(long, algorithm), NOW).user == "alice"
    assert why(good, token("z" + long[1:], algorithm)) == "its signature is wrong"


@pytest.mark.parametrize(
    ("kind", "algorithm"), [("rsa", "RS256"), ("rsa", "RS512"), ("p256", "ES256"), ("p384", "ES384")]
)
def test_a_public_key(kind: str, algorithm: str) -> None:
    good = Authenticator([public_key(pem(kind))])
    assert good.identify(token(private(kind), algorithm), NOW).user == "alice"
    text = token(private(kind), algorithm)
    head, body, signature = text.split(".")
    assert why(good, f"{head}.{body}.{signature[:-8]}AAAAAAAA") == "its signature is wrong"


def test_the_key_says_which_algorithm_and_not_the_token() -> None:
    """CVE-2015-9235 and its kin: the public key is public, so its text is no secret."""
    good = Authenticator([public_key(pem("rsa"))])
    body = json.dumps(claims()).encode()
    for text in (pem("rsa"), pem("rsa").strip()):
        forged = by_hand({"alg": "HS256", "typ": "JWT"}, body, text.encode())
        assert "not signed with RS256" in why(good, forged)
    for none in ("none", "None", "NONE", "nOnE", ""):
        for authenticator in (good, SHARED):
            assert "is not signed with" in why(authenticator, by_hand({"alg": none}, body, None))
    for header in ({}, {"alg": None}, {"alg": 5}, {"alg": ["HS256"]}, {"typ": "JWT"}):
        why(SHARED, by_hand(header, body, SECRET.encode()))
    assert "not signed with ES256" in why(Authenticator([public_key(pem("p256"))]), token(private("rsa"), "RS256"))
    assert "not signed with RS256" in why(good, token(private("rsa"), "PS256"))
    assert "not signed with HS256" in why(SHARED, token(private("rsa"), "RS256"))


def test_an_empty_signature_and_a_shifted_one_are_wrong() -> None:
    head, body, signature = token().split(".")
    for text in (f"{head}.{body}.", f"{head}.{body}.{signature[1:]}", f"{head}.{body}.{signature}AAAA"):
        why(SHARED, text)
    other = token(sub="mallory").split(".")[1]
    assert why(SHARED, f"{head}.{other}.{signature}") == "its signature is wrong"


def test_algorithms_can_be_fewer_and_must_have_a_key() -> None:
    only = Authenticator([shared_key(SECRET * 2)], algorithms=["HS512"])
    assert only.identify(token(SECRET * 2, "HS512"), NOW)
    assert why(only, token(SECRET * 2, "HS256")) == "it is not signed with HS512"
    for key, algorithm in ((shared_key(SECRET), "RS256"), (public_key(pem("p256")), "ES384")):
        with pytest.raises(ConfigError, match=f"no key for {algorithm}") as caught:
            Authenticator([key], algorithms=[algorithm])
        assert caught.value.field == "algorithms"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"exp": None}, "it has no exp"),
        ({"sub": None}, "it has no sub"),
        ({"exp": NOW}, "it has expired"),
        ({"exp": NOW - 1}, "it has expired"),
        ({"exp": -1}, "it has expired"),
        ({"nbf": NOW + 1}, "it is not valid yet"),
        ({"exp": "tomorrow"}, "its exp is no time"),
        ({"exp": str(NOW + 60)}, "its exp is no time"),
        ({"exp": True}, "its exp is no time"),
        ({"exp": [NOW + 60]}, "its exp is no time"),
        ({"exp": 10**400}, "its exp is no time"),
        ({"nbf": "now"}, "its nbf is no time"),
        ({"sub": ""}, "its sub is no user, or too long"),
        ({"sub": "x" * 255}, "its sub is no user, or too long"),
        ({"sub": 7}, "its sub is no user, or too long"),
        ({"sub": "\ud800"}, "its sub is no user, or too long"),
        ({"aud": "somebody"}, "it is meant for another audience"),
        ({"heliograph": {"subscribe": "*"}}, "its claim `heliograph` is malformed"),
    ],
)
def test_claims_that_do_not_do(fields: dict[str, Any], reason: str) -> None:
    body = json.dumps({name: value for name, value in claims(**fields).items() if value is not None}).encode()
    assert reason in why(SHARED, by_hand({"alg": "HS256"}, body, SECRET.encode()))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-Infinity"])
def test_a_time_that_never_comes_is_none(number: str) -> None:
    body = f'{{"sub":"alice","exp":{number}}}'.encode()
    assert why(SHARED, by_hand({"alg": "HS256"}, body, SECRET.encode())) == "its exp is no time"


def test_the_leeway_is_for_both_ends() -> None:
    lenient = Authenticator([shared_key(SECRET)], leeway=10)
    found = lenient.identify(token(exp=NOW - 9, nbf=NOW + 9), NOW)
    assert (found.expires, found.ends) == (NOW - 9, NOW + 1)
    assert why(lenient, token(exp=NOW - 10)) == "it has expired"
    assert why(lenient, token(nbf=NOW + 11)) == "it is not valid yet"


def test_audience_and_issuer() -> None:
    strict = Authenticator([shared_key(SECRET)], audience="desk", issuer="https://issuer.test")
    good = {"aud": ["web", "desk"], "iss": "https://issuer.test"}
    assert strict.identify(token(**good), NOW)
    assert why(strict, token(**{**good, "aud": "des"})) == "it is meant for another audience"
    assert why(strict, token(iss="https://issuer.test")) == "it has no aud"
    assert why(strict, token(**{**good, "iss": "https://issuer.test/"})) == "it comes from another issuer"
    assert why(strict, token(aud="desk")) == "it has no iss"


@pytest.mark.parametrize(
    ("subject", "user"), [("a.b@c.de", "a%2Eb@c%2Ede"), ("a%2Eb", "a%252Eb"), ("ä >", "%C3%A4%20%3E"), ("*", "%2A")]
)
def test_any_subject_is_one_token_of_a_topic(subject: str, user: str) -> None:
    assert SHARED.identify(token(sub=subject), NOW).user == user


# Key sets -------------------------------------------------------------------------------------------------------------


def jwk(kind: str, kid: str | None = None, **fields: Any) -> dict[str, Any]:
    algorithm: Any = jwt.algorithms.RSAAlgorithm if kind == "rsa" else jwt.algorithms.ECAlgorithm
    made = algorithm.to_jwk(private(kind).public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **fields} | ({} if kid is None else {"kid": kid})


def a_set(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys})


def test_a_key_set_chooses_by_kid() -> None:
    both = Authenticator(key_set(a_set(jwk("rsa", "old"), jwk("p256", "new"))))
    assert both.identify(token(private("rsa"), "RS256", "old"), NOW)
    assert both.identify(token(private("p256"), "ES256", "new"), NOW)
    assert why(both, token(private("rsa"), "RS256", "gone")) == "there is no key with its kid"
    assert why(both, token(private("rsa"), "RS256")) == "there are several keys and it has no kid"
    assert "not signed with ES256" in why(both, token(private("rsa"), "RS256", "new"))
    for kid in (["old"], {"a": 1}, 7):
        why(both, by_hand({"alg": "RS256", "kid": kid}, b"{}", b"x"))


def test_a_single_key_may_have_no_kid() -> None:
    one = Authenticator(key_set(a_set(jwk("rsa"), jwk("p256", use="enc"))))
    assert one.identify(token(private("rsa"), "RS256"), NOW)
    assert one.identify(token(private("rsa"), "RS256", "whatever"), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys":[]}',
        '{"keys":[{"kty":"RSA"}]}',
        '{"keys":[{"kty":"oct","k":"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldA","alg":"HS256","kid":"a"}]}',
    ],
)
def test_what_is_no_key_set_is_told(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        key_set(text)
    assert caught.value.field == "jwks"


def test_keys_of_a_set_that_could_be_confused_are_refused() -> None:
    for keys in ((jwk("rsa"), jwk("p256")), (jwk("rsa", "a"), jwk("p256", "a")), (jwk("rsa", use="enc"),)):
        with pytest.raises(ConfigError):
            key_set(a_set(*keys))


def test_what_is_no_public_key_is_told() -> None:
    secret = private("p256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    small = rsa.generate_private_key(public_exponent=65_537, key_size=1_024).public_key()
    short = small.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text, says in (("x", "no PEM"), (secret, "a private key"), (short, "2048 bits"), (pem("ed"), "RSA or EC")):
        with pytest.raises(ConfigError, match=says) as caught:
            public_key(text)
        assert caught.value.field == "public_key"
        assert text.strip("-\n")[30:60] not in str(caught.value) or text == "x"


# What strangers send --------------------------------------------------------------------------------------------------

RSA_KEY = Authenticator([public_key(pem("rsa"))])


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True))
def test_anything_else_is_refused(text: str) -> None:
    for authenticator in (SHARED, RSA_KEY):
        why(authenticator, text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "zip"])


@given(st.dictionaries(names, json_values, max_size=4), json_values, st.booleans())
def test_any_header_is_refused_or_ignored(header: dict[str, Any], payload: Any, signed: bool) -> None:
    text = by_hand({"alg": "HS256", **header} if signed else header, json.dumps(payload).encode(), SECRET.encode())
    why(SHARED, text)  # the payload is never a good one
    why(RSA_KEY, text)


def test_a_key_that_the_token_brings_along_is_not_looked_at() -> None:
    mine = jwt.algorithms.ECAlgorithm.to_jwk(private("p256").public_key(), as_dict=True)
    forged = jwt.encode(claims(), private("p256"), "ES256", {"jwk": mine, "jku": "http://evil.test/keys"})
    why(RSA_KEY, forged)
    why(Authenticator([public_key(pem("p384"))]), forged)


def test_a_huge_or_deep_token_is_refused() -> None:
    assert why(SHARED, "a" * (TOKEN_BYTES + 1)) == f"it has more than {TOKEN_BYTES} bytes"
    deep = base64.urlsafe_b64encode(b'{"a":' * 1_200).decode().rstrip("=")
    why(SHARED, f"{deep[: TOKEN_BYTES - 10]}.e30.aa")
    body = b'{"a":' * 900 + b"1" + b"}" * 900
    why(SHARED, by_hand({"alg": "HS256"}, body, SECRET.encode()))


def test_keys_are_in_no_repr() -> None:
    assert SECRET not in repr(shared_key(SECRET)) + repr(SHARED)
