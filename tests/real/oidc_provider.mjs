// The certified `oidc-provider` of the npm registry with one client and any user; prints its issuer once it listens.
// arguments: client id, client secret, redirect address, address after sign-out
import { createServer } from "node:http";
import Provider from "oidc-provider";

const [client_id, client_secret, redirect_uri, home] = process.argv.slice(2);
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id, client_secret, redirect_uris: [redirect_uri], post_logout_redirect_uris: [home],
      grant_types: ["authorization_code", "refresh_token"], response_types: ["code"],
    }],
    claims: { openid: ["sub", "acr", "amr", "auth_time"], profile: ["preferred_username", "entitlements"] },
    cookies: { keys: ["for tests only"] },
    features: { devInteractions: { enabled: true }, revocation: { enabled: true }, introspection: { enabled: true } },
    async findAccount(_, id) {
      return { accountId: id, claims: async () => ({ sub: id, preferred_username: id, entitlements: ["urn:x:y"] }) };
    },
    pkce: { required: () => true },
    rotateRefreshToken: () => true,
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
