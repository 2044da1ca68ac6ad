"""Tokens made and read by four libraries that we did not write: PyJWT, Authlib, jwcrypto and joserfc.

`mint` prints, as JSON, for every algorithm its issuer, what it is verified with (a JWK Set in which each library wrote the
key down, or the secret) and one token of each library. `verify` takes from its standard input what the gateway made:
`[{"alg", "token", "keys" or "secret"}]`, and prints a line for each token and library.
"""

import json
import sys
import time
import warnings

warnings.simplefilter("ignore")

import jwt as pyjwt
from authlib.jose import JsonWebKey, JsonWebToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt
from jwcrypto import jwk as jwcrypto_jwk
from jwcrypto import jwt as jwcrypto_jwt

SECRET = "b58c1f0a7d9e4463a2c87b1e5f90d3c4-6e8a1b7295cd40f3"
PYJWT = {
    "RS256": pyjwt.algorithms.RSAAlgorithm,
    "PS256": pyjwt.algorithms.RSAAlgorithm,
    "ES256": pyjwt.algorithms.ECAlgorithm,
    "ES384": pyjwt.algorithms.ECAlgorithm,
    "EdDSA": pyjwt.algorithms.OKPAlgorithm,
}
TYPE = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "ES384": "EC", "EdDSA": "OKP", "HS256": "oct"}


def make_key(alg):
    if alg in ("RS256", "PS256"):
        return rsa.generate_private_key(65537, 2048)
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if alg == "ES256" else ec.SECP384R1())


def private_pem(key):
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def public_pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwks(key, alg):
    """The public key as each library writes it down."""
    pem = public_pem(key)
    written = {
        "pyjwt": PYJWT[alg].to_jwk(key.public_key(), as_dict=True),
        "authlib": JsonWebKey.import_key(pem, {"kty": TYPE[alg]}).as_dict(),
        "jwcrypto": json.loads(jwcrypto_jwk.JWK.from_pem(pem).export_public()),
        "joserfc": joserfc_jwk.import_key(pem, TYPE[alg]).as_dict(private=False),
    }
    return [{**jwk, "kid": library} for library, jwk in written.items()]


def mint_with(library, alg, key, claims):
    header = {"alg": alg, "typ": "at+jwt", "kid": library}
    secret = SECRET.encode() if alg == "HS256" else private_pem(key)
    if library == "pyjwt":
        return pyjwt.encode(claims, secret, algorithm=alg, headers=header)
    if library == "authlib":
        return JsonWebToken([alg]).encode(header, claims, secret).decode()
    if library == "jwcrypto":
        token = jwcrypto_jwt.JWT(header=header, claims=claims)
        token.make_signed_token(jwcrypto_jwk.JWK.from_password(SECRET) if alg == "HS256" else jwcrypto_jwk.JWK.from_pem(secret))
        return token.serialize()
    return joserfc_jwt.encode(header, claims, joserfc_jwk.import_key(secret, TYPE[alg]), algorithms=[alg])


def mint():
    made = []
    for alg in TYPE:
        key = None if alg == "HS256" else make_key(alg)
        issuer = f"https://{alg.lower()}.example"
        now = int(time.time())
        tokens = {}
        for library in ("pyjwt", "authlib", "jwcrypto", "joserfc"):
            claims = {
                "iss": issuer,
                "aud": ["other", "modelgate"],
                "sub": library,
                "exp": now + 600,
                "nbf": now,
                "iat": now,
                "jti": library,
                "roles": ["predictor"],
                "name": "Grüße \U0001f600 \u2028",
                "nested": {"numbers": [1, -2, 3.5, None, True]},
            }
            tokens[library] = mint_with(library, alg, key, claims)
        made.append({"alg": alg, "issuer": issuer, "tokens": tokens})
        made[-1].update({"secret": SECRET} if key is None else {"keys": jwks(key, alg)})
    print(json.dumps(made))


def read(library, alg, token, keys, secret):
    if library == "pyjwt":
        kid = pyjwt.get_unverified_header(token).get("kid")
        key = secret or pyjwt.PyJWKSet.from_dict({"keys": keys})[kid].key
        return pyjwt.decode(token, key, algorithms=[alg], audience="modelgate")
    if library == "authlib":
        key = secret or JsonWebKey.import_key_set({"keys": keys})
        return dict(JsonWebToken([alg]).decode(token, key))
    if library == "jwcrypto":
        if secret:
            key = jwcrypto_jwk.JWK.from_password(secret)
        else:
            key = jwcrypto_jwk.JWKSet.from_json(json.dumps({"keys": keys}))
        return json.loads(jwcrypto_jwt.JWT(jwt=token, key=key, algs=[alg], expected_type="JWS").claims)
    key = joserfc_jwk.import_key(secret, "oct") if secret else joserfc_jwk.KeySet.import_key_set({"keys": keys})
    return joserfc_jwt.decode(token, key, algorithms=[alg]).claims


def verify():
    for made in json.load(sys.stdin):
        alg, token, keys, secret = made["alg"], made["token"], made.get("keys"), made.get("secret")
        said = [read(library, alg, token, keys, secret) for library in ("pyjwt", "authlib", "jwcrypto", "joserfc")]
        assert all(claims == said[0] for claims in said), said
        assert said[0]["aud"] == "modelgate" and said[0]["sub"], said[0]
        broken = token[:-6] + ("AAAAAA" if token[-6:] != "AAAAAA" else "BBBBBB")
        for library in ("pyjwt", "authlib", "jwcrypto", "joserfc"):
            try:
                read(library, alg, broken, keys, secret)
            except Exception:
                print(f"{alg} {library}")
            else:
                raise AssertionError(f"{library} takes a broken token")


{"mint": mint, "verify": verify}[sys.argv[1]]()
