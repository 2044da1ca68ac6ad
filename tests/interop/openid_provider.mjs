// A real OpenID provider (oidc-provider, npm), which we did not write.
//
// Arguments: the directory with its packages, the certificate and the private key in PEM. Prints its issuer as JSON. It
// has one client, `batch` with the secret `batch-secret`, that gets tokens by client_credentials: JWTs for the resource
// urn:jwt and opaque ones for urn:opaque, both with the audience `modelgate`. The client `gateway` with the secret
// `gateway-secret` may introspect. POST /rotate makes it sign with a new key.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, certificate, privateKey] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(join(packages, "oidc-provider/lib/index.js")));

const keys = [];
const scope = "models:predict models:admin";

function newKey() {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "ES256" };
}

function client(name) {
  return {
    client_id: name,
    client_secret: `${name}-secret`,
    grant_types: ["client_credentials"],
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: "ES256",
    scope,
  };
}

function provider(issuer) {
  const made = new Provider(issuer, {
    clients: [client("batch"), client("gateway")],
    jwks: { keys },
    scopes: scope.split(" "),
    ttl: { ClientCredentials: 600 },
    cookies: { keys: ["of a test"] },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: (_ctx, asking) => asking.clientId === "gateway" },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_ctx, resource) => ({
          audience: "modelgate",
          scope,
          accessTokenFormat: resource === "urn:jwt" ? "jwt" : "opaque",
          jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
  });
  return made.callback();
}

let handle;
const server = createServer({ cert: readFileSync(certificate), key: readFileSync(privateKey) }, (request, response) => {
  if (request.url === "/rotate") {
    keys.unshift(newKey());
    handle = provider(issuer);
    response.end();
  } else {
    handle(request, response);
  }
});
let issuer;
server.listen(0, "127.0.0.1", () => {
  issuer = `https://localhost:${server.address().port}`;
  keys.unshift(newKey());
  handle = provider(issuer);
  console.log(JSON.stringify({ event: "listening", issuer, port: server.address().port }));
});
