"""Every grant of the gateway, completed by Authlib, which we did not write.

Arguments: the address that the gateway listens on, the CA's certificate, the algorithm, the clients' secrets as JSON, and
the user's password. Prints what was completed, one a line; ends with an error at the first that was not.
"""

import json
import sys

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url
from authlib.oauth2.rfc9068.claims import JWTAccessTokenClaims
from joserfc import jwt
from joserfc.jwk import KeySet

ADDRESS, CA, ALGORITHM, SECRETS, PASSWORD = sys.argv[1:6]
SECRETS = json.loads(SECRETS)
ISSUER = "https://localhost:8443"


class Elsewhere(requests.adapters.HTTPAdapter):
    """The gateway has a free port, and is known by the one that its issuer names."""

    def send(self, request, **kwargs):
        request.url = request.url.replace(ISSUER, "https://localhost:" + ADDRESS.rsplit(":", 1)[1], 1)
        return super().send(request, **kwargs)


def ready(session):
    session.verify = CA
    session.trust_env = False
    session.mount(ISSUER, Elsewhere())
    return session


def client(name, method="client_secret_basic", **more):
    session = OAuth2Session(
        name, SECRETS[name], token_endpoint_auth_method=method, revocation_endpoint_auth_method=method, **more
    )
    return ready(session)


def done(what):
    print(what)


def known(token):
    return web.get(ISSUER + "/known", headers={"Authorization": "Bearer " + token["access_token"]}).status_code


def refused(what, error, ask):
    try:
        ask()
    except OAuthError as refusal:
        assert refusal.error == error, (what, refusal)
        return done(what)
    raise AssertionError(what)


web = ready(requests.Session())

metadata = AuthorizationServerMetadata(web.get(get_well_known_url(ISSUER, external=True)).json())
metadata.validate()
assert metadata["issuer"] == ISSUER
done("metadata discovery")

keys = web.get(metadata["jwks_uri"]).json()
TOKEN, REVOKE, INTROSPECT = (
    metadata[name] for name in ("token_endpoint", "revocation_endpoint", "introspection_endpoint")
)


def verify(token, subject, client_id):
    """Signature by the published keys, claims as RFC 9068 §4 says."""
    read = jwt.decode(token["access_token"], KeySet.import_key_set(keys), algorithms=[ALGORITHM])
    essential = {name: {"essential": True} for name in ("exp", "iat", "jti")}
    exact = {"iss": ISSUER, "aud": "modelgate", "sub": subject, "client_id": client_id}
    options = essential | {name: {"essential": True, "value": value} for name, value in exact.items()}
    claims = JWTAccessTokenClaims(read.claims, read.header, options)
    claims.validate()
    assert read.header["typ"] == "at+jwt" and read.header["kid"] in [key["kid"] for key in keys["keys"]]


for method in metadata["token_endpoint_auth_methods_supported"]:
    ci = client("ci", method)
    token = ci.fetch_token(TOKEN, grant_type="client_credentials", scope="read")
    assert token["token_type"] == "Bearer" and token["scope"] == "read" and "refresh_token" not in token
    verify(token, "ci", "ci")
    assert known(token) == 200
    done(f"client_credentials with {method}")
done("jwks verification")

said = ci.introspect_token(INTROSPECT, token=token["access_token"]).json()
assert said["active"] is True and said["client_id"] == "ci" and said["scope"] == "read", said
done("introspect")

answer = ci.revoke_token(REVOKE, token=token["access_token"], token_type_hint="access_token")
assert answer.status_code == 200 and known(token) == 401
assert ci.introspect_token(INTROSPECT, token=token["access_token"]).json() == {"active": False}
done("revoke")

app = client("app")
first = app.fetch_token(TOKEN, grant_type="password", username="alice", password=PASSWORD)
verify(first, "alice", "app")
assert known(first) == 200
done("password")

second = app.refresh_token(TOKEN, refresh_token=first["refresh_token"])
verify(second, "alice", "app")
assert second["refresh_token"] != first["refresh_token"] and known(second) == 200
done("refresh_token")

refused("a refresh token used twice", "invalid_grant", lambda: client("app").refresh_token(TOKEN, refresh_token=first["refresh_token"]))
assert known(second) == 401
refused("its family", "invalid_grant", lambda: client("app").refresh_token(TOKEN, refresh_token=second["refresh_token"]))

third = app.fetch_token(TOKEN, grant_type="password", username="alice", password=PASSWORD)
assert app.revoke_token(REVOKE, token=third["refresh_token"], token_type_hint="refresh_token").status_code == 200
assert known(third) == 401
done("revoke a refresh token")

refused("a scope too many", "invalid_scope", lambda: client("ci").fetch_token(TOKEN, grant_type="client_credentials", scope="admin"))
refused("another's grant", "unauthorized_client", lambda: client("app").fetch_token(TOKEN, grant_type="client_credentials"))
SECRETS["ci"] += "x"
refused("a wrong secret", "invalid_client", lambda: client("ci").fetch_token(TOKEN, grant_type="client_credentials"))
