// A certified provider of OpenID Connect on loopback, for the tests of the pages.
//
//     node provider.mjs MODULES ISSUER CLIENT_SECRET REDIRECT_URI WHERE
//
// WHERE: "id_token" or "userinfo" has the claims of the scopes.
// Whoever signs in as "kim+readers+runners" is in the groups readers and runners.
import { createServer } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, issuer, secret, redirectUri, where] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(join(modules, "oidc-provider/lib/index.js")));

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "verifyd",
      client_secret: secret,
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [new URL("/login", redirectUri).href],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
  ],
  claims: { openid: ["sub"], profile: ["name", "groups"] },
  conformIdTokenClaims: where === "userinfo",
  cookies: { keys: ["of a test"] },
  features: {
    devInteractions: { enabled: false },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (ctx, form) => {
        ctx.body = `<!doctype html><title>Provider</title>${form}
          <button id="sign-out" form="op.logoutForm" name="logout" value="yes">Sign out</button>`;
      },
    },
  },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, name: "Kim Doe", groups: id.split("+").slice(1) }),
  }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  pkce: { required: () => true },
});

async function body(request) {
  let text = "";
  for await (const piece of request) text += piece;
  return new URLSearchParams(text);
}

async function interaction(request, response) {
  if (request.method !== "POST") {
    response.setHeader("content-type", "text/html");
    response.end(`<!doctype html><title>Provider</title><form id="sign-in" method="post">
      <input id="account" name="account"><button>Sign in</button></form>`);
    return;
  }
  const accountId = (await body(request)).get("account");
  const { params } = await provider.interactionDetails(request, response);
  const grant = new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const result = { login: { accountId }, consent: { grantId: await grant.save() } };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

const answer = provider.callback();
createServer((request, response) => {
  if (!request.url.startsWith("/interaction/")) return answer(request, response);
  interaction(request, response).catch((error) => {
    response.statusCode = 500;
    response.end(String(error));
  });
}).listen(Number(new URL(issuer).port), "localhost", () => console.log("listening"));
