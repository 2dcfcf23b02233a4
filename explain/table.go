package explain

import "slices"

// entry is a row of the table of codes: what is said, whatever was found. Places
// in braces are filled: those of the inquiry (consumer, image, host, key,
// repository, owner, tag) and those of the finding.
type entry struct {
	code        Code
	severity    Severity
	title       string
	cause, cure string
}

func entryOf(code Code) entry {
	return entries[slices.IndexFunc(entries, func(e entry) bool { return e.code == code })]
}

const (
	replace = "Replace the login: `regkeeper rotate {host}` where regkeeper mints it, else `docker login {host}`; then `regkeeper sync` delivers it."
	deliver = "Have regkeeper deliver a login for {host} to where {consumer} looks: a source for {host} and a target in regkeeper.yaml, then `regkeeper sync`."
)

// entries is the one table of codes.
var entries = []entry{
	// It works.

	{
		"login-works", Info, "The login is accepted",
		"{host} gives {image} to {login}.", "",
	},
	{
		"image-public", Info, "The image needs no login",
		"{host} gives {image} to anybody: {consumer} asks without a login, and gets it.", "",
	},

	// The login.

	{
		"login-missing", Error, "A login is needed and none is found",
		"{host} does not give {image} to nobody, and {consumer} finds no login for it. The image may also not exist: registries say the same then.",
		deliver,
	},
	{
		"login-wrong", Error, "The login is refused",
		"{host} refuses {login}: the password or token is wrong, or was revoked, or the user is locked.", replace,
	},
	{
		"login-expired", Error, "The login has expired",
		"{login} says of itself that it ended at {ends}, and {host} refuses it.",
		"Get a new one, and have it renewed ahead of its end: a source for {host} in regkeeper.yaml, then `regkeeper sync`; `regkeeper up` keeps at it.",
	},
	{
		"identity-token-refused", Error, "The identity token is refused",
		"The token server of {host} does not take the identity token of {login} (OAuth 2, POST): it has ended or was revoked, or the server takes user and password alone.",
		"Log in with a user and a token made for this, in place of `docker login` through a browser: " + deliver,
	},
	{
		"access-or-unknown", Error, "The login may not pull this image, or there is no such image",
		"{host} takes {login} and does not give it {repository}: it has no right to pull there, or there is no such repository. Registries say the same for both, so that nobody learns what exists.",
		"Check the name of the image; then give the user the right to pull {repository}, or use the login of somebody who has it.",
	},
	{
		"repository-unknown", Error, "There is no such repository",
		"{host} takes {login}, and knows no repository {repository}.",
		"Check the name of the image; `regkeeper image ls {host}/{repository}` lists its tags once it exists.",
	},
	{
		"tag-missing", Error, "The login works, and the tag is not there",
		"{host} takes {login}, and has no {tag} in {repository}. Some registries, Gitea and distribution among them, say the same of a repository that does not exist.",
		"Check the tag: `regkeeper image ls {host}/{repository}` lists those there are. It may have been pruned, or its push failed.",
	},

	// Gitea and Forgejo.

	{
		"gitea-token-without-scope", Error, "Gitea: the token has no package scope",
		"Gitea knows {login} (the root of its registry takes it) and hands out no registry token for it: the personal access token lacks read:package.",
		"Scopes cannot be added to a token. Mint one with read:package (write:package to push): a gitea source with `scopes: [pull]` in regkeeper.yaml does, then `regkeeper sync`.",
	},
	{
		"gitea-token-wrong", Error, "Gitea: the token or password is wrong, or was deleted",
		"Gitea does not know {login} at all: the token was deleted or is mistyped, or it is a password where two-factor authentication needs a token. Clients that hold a registry token of a deleted one go on for up to 24 hours, so that a deletion shows late.",
		replace,
	},
	{
		"gitea-owner-private", Error, "Gitea: reqPackageAccess, the owner is private to this user",
		"Gitea takes {login}, token and scope, and does not let it read the packages of {owner}: {owner} is private or limited, or an organisation that the user is in no team of. Whether {repository} exists it does not say.",
		"Use a login of {owner}'s own, add the user to a team of {owner} with the packages unit, or make {owner} public. A token's scope is not the cause: one without it would have been refused before.",
	},
	{
		"gitea-login-missing", Error, "Gitea: reqPackageAccess, because no login was sent",
		"Gitea hands registry tokens to nobody as well, and only then says reqPackageAccess: {owner} is private, and {consumer} sends no login for {host}.",
		deliver,
	},
	{
		"gitea-owner-unknown", Error, "Gitea: there is no such owner",
		"Gitea takes {login}, and has no user or organisation {owner}.",
		"Check the image's name: after the host comes the owner, and not the repository's name alone.",
	},
	{
		"gitea-token-outlives-revocation", Warning, "Gitea: a registry token works on after its login was deleted",
		"{login} is a registry token that Gitea signed, good until {ends}. Gitea does not look the personal access token behind it up again: after that is deleted, the registry token pulls and pushes on.",
		"Wait until {ends}, or stop the user for now (prohibit login), which cuts both. Do not store registry tokens: `regkeeper sync` delivers personal access tokens.",
	},

	// Amazon ECR.

	{
		"ecr-token-expired", Error, "Amazon ECR: the token has expired",
		"Amazon ECR refuses {login}: its tokens last 12 hours{ended}. A login that was written once works for half a day.",
		"Have it renewed ahead of its end: an ecr source for {host} in regkeeper.yaml and `regkeeper up`; or docker-credential-ecr-login under credHelpers of {host}.",
	},
	{
		"ecr-denied", Error, "Amazon ECR: the role may not pull from this repository",
		"Amazon ECR refuses {login}, which has not ended: the role that it was made for lacks ecr:BatchGetImage or ecr:GetDownloadUrlForLayer on {repository}, the repository's policy forbids it, or it is another account's or region's.",
		"Give the role AmazonEC2ContainerRegistryPullOnly, and for another account's repository its policy too. Account and region stand in the host: {host}.",
	},

	// A login that is not needed.

	{
		"anonymous-retry", Warning, "A stale login hides behind a retry without it",
		"{host} refuses {login}. {consumer} then asks again as nobody, {retry}",
		"Look for \"retrying without them, please check for stale docker config files\" in the job's log: the line before it is the real error. " + replace,
	},
	{
		"stale-login-public-image", Warning, "The login is refused, and the image needs none",
		"{host} gives {image} to anybody, and refuses whoever shows {login}: a stale login is worse than none.",
		"Remove it (`docker logout {host}`), or replace it: `regkeeper sync`.",
	},
	{
		"helper-fails-public-image", Error, "A failing helper keeps back an image that needs no login",
		"{host} gives {image} to anybody, and {consumer} never asks: the helper that it must ask first fails. A helper under credsStore is asked for every registry, public Docker Hub too.",
		"Take the helper out of credsStore and name it under credHelpers of its own registry: `regkeeper install helper` does it that way.",
	},

	// Limits.

	{
		"rate-limited", Error, "The registry's rate limit is reached",
		"{host} answers that it was asked too often{limit}. Without a login Docker Hub counts by address, so that all that share one share the limit.",
		"Wait{wait}. Then log in (limits of users are higher), and pull through a mirror: `regkeeper mirror run` fills one, `regkeeper install docker` and `regkeeper install containerd` tell of it.",
	},
	{
		"rate-limit-reached", Warning, "The next pull meets the rate limit",
		"{host} gives the image to {login}, and says that no pull is left{limit}. Asking for a manifest by HEAD does not count, pulling does.",
		"Wait, log in, or pull through a mirror: `regkeeper mirror run` fills one, `regkeeper install docker` and `regkeeper install containerd` tell of it.",
	},

	// The way to the registry.

	{
		"dns-unknown-host", Error, "The name is not known",
		"DNS has no address for {peer}: it is mistyped, or known only in another network (that of the host, not of the container; that of the cluster, not of the node).",
		"Check the name in the image's reference, and look it up where {consumer} runs: `getent hosts {peer}`.",
	},
	{
		"dns-failed", Error, "The name cannot be looked up",
		"The look-up of {peer} got no answer: the DNS server is down, or is not reached from here.",
		"Check /etc/resolv.conf where {consumer} runs. In containers on a network of their own it is Docker's or the cluster's DNS.",
	},
	{
		"connection-refused", Error, "Nothing listens there",
		"{peer} refuses the connection: the registry is down, listens on another port, or on loopback of another machine. localhost in a container is the container.",
		"Check that it is up and its port: `curl -v https://{peer}/v2/` where {consumer} runs.",
	},
	{
		"unreachable", Error, "The registry does not answer",
		"There is no connection to {peer}, or no answer in time: a firewall drops it, there is no route, or a proxy is needed and none is set.",
		"Try it where {consumer} runs: `curl -v https://{peer}/v2/`. If that network needs a proxy, set HTTPS_PROXY for {consumer}, and for the Docker daemon, which pulls by its own environment.",
	},
	{
		"connection-broken", Error, "The connection ends before an answer",
		"{peer} accepts the connection and closes it without an answer: a load balancer without a registry behind it, a firewall that looks inside, or another protocol on that port.",
		"Look at the log of what listens at {peer}.",
	},
	{
		"tls-unknown-authority", Error, "The certificate is of an authority that is not trusted here",
		"{peer} shows a certificate of {issuer}, which this machine does not trust: it signed itself, is of a company's own authority, or of a proxy that looks inside.",
		"Give the authority's certificate to each that pulls: /etc/docker/certs.d/{peer}/ca.crt for Docker, the system's store for {consumer}, `tls` of `registries.yaml` for K3s. SSL_CERT_FILE gives it to regkeeper.",
	},
	{
		"tls-wrong-name", Error, "The certificate is for another name",
		"{peer} shows a certificate for {names}.",
		"Use one of these names in the image's reference, or have a certificate issued that has {peer} among its alternative names (a common name alone is not looked at).",
	},
	{
		"tls-expired", Error, "The certificate has expired",
		"The certificate of {peer} ended at {until}.",
		"Renew it at the server. If it was renewed, the server was not reloaded since. If the time here is wrong, set the clock.",
	},
	{
		"tls-not-yet", Error, "The certificate is not valid yet",
		"The certificate of {peer} begins at {from}: the clock of this machine is behind, or that of who issued it ahead.",
		"Set the clock, and keep it with NTP.",
	},
	{
		"tls-bad-certificate", Error, "The certificate is not good for a server",
		"The certificate of {peer} does not pass: its use, its authority's limits, or its chain.",
		"Have the server show its whole chain, of certificates for servers: `openssl s_client -connect {peer} -showcerts`.",
	},
	{
		"tls-refused-by-server", Error, "The server ends the TLS handshake",
		"{peer} refuses to go on: it wants a client's certificate, another name (SNI), or a version of TLS that is not spoken here.",
		"For a client's certificate: /etc/docker/certs.d/{peer}/client.cert and client.key for Docker.",
	},
	{
		"registry-speaks-plain-http", Error, "The registry speaks plain HTTP",
		"{peer} answers TLS in plain HTTP, and clients ask by HTTPS.",
		"Put TLS before it. Where that is not to be: `insecure-registries` in the daemon's daemon.json, `mirrors` with http:// for K3s, `insecure: true` of the registry in regkeeper.yaml. Logins go in the clear then.",
	},
	{
		"registry-speaks-tls", Error, "The registry speaks TLS, and is asked in plain HTTP",
		"{peer} wants TLS, and is spoken to in plain HTTP.",
		"Take http:// out of the mirror's or endpoint's address, and the host out of `insecure-registries`.",
	},
	{
		"proxy-login", Error, "The proxy wants a login",
		"The proxy {peer} answers 407 for {host}: it wants a login of its own, which has nothing to do with the registry's.",
		"Put the host into NO_PROXY if the registry is in your own network; else write the proxy's login into HTTPS_PROXY (http://user:password@{peer}), for the Docker daemon as well.",
	},
	{
		"proxy-refused", Error, "The proxy does not let it through",
		"The proxy {peer} answers {status} to a connection to {host}: it does not allow that host or port, or does not reach it itself.",
		"Put {host} into NO_PROXY if it is in your own network; else have the proxy allow it, with the hosts that it sends clients to: those of tokens and of layers.",
	},
	{
		"proxy-unreachable", Error, "The proxy is not reached",
		"HTTPS_PROXY or HTTP_PROXY names {peer}, and that is not reached. The registry itself was not asked.",
		"Correct or unset the variable where {consumer} runs, or put {host} into NO_PROXY.",
	},
	{
		"token-server-plain-http", Error, "Logins would go to a token server in plain HTTP",
		"{host} speaks HTTPS and names a token server in plain HTTP, {peer}. The registry does not know that a proxy before it speaks HTTPS; some clients refuse, others send the password in the clear.",
		"Have the proxy set X-Forwarded-Proto: https, and the registry know its address (ROOT_URL of Gitea, external_url of Harbor and GitLab).",
	},
	{
		"token-server-broken", Error, "The token server gives no token",
		"{host} sends clients to a token server, and what it says cannot be used.",
		"Look at the registry's setting for it (auth.token.realm of distribution) and at proxies before it.",
	},
	{
		"redirect-refused", Error, "The registry redirects to where no login may go",
		"{peer} redirects without end, from HTTPS to plain HTTP, or a login to another host.",
		"Look at the proxy before the registry: most often it redirects all to one page, or back and forth between two addresses.",
	},
	{
		"not-a-registry", Error, "The answer is not a registry's",
		"{host} answers {status} to what every registry knows (OCI distribution specification, GET /v2/): another server has that name and port, or a proxy before the registry does not pass /v2/ on.",
		"Check name and port. The path /v2/ must be passed on from the top of the host, whatever path the registry's own pages have.",
	},
	{
		"registry-error", Error, "The registry has an error of its own",
		"{host} answers {status}.",
		"Look at the registry's log; try again later.",
	},
	{
		"unclear", Error, "The answer tells no cause",
		"{host} answers in a way that fits no known cause.",
		"Look at the answers in the evidence, and at the registry's log.",
	},

	// Where the client looks.

	{
		"key-never-matches", Warning, "A login is there under a key that the client never takes",
		"{where} has a login under {entry}, and {consumer} does not take it for {image}: {why}.",
		"Write it under {key}, which every client finds: `regkeeper sync` does, or `docker logout {entry}` and `docker login {host}`.",
	},
	{
		"login-by-chance", Warning, "Which login is used is a matter of chance",
		"Several entries fit {host} equally ({entries}), and {consumer} takes whichever its map gives first: another one each time. Keys with a path are no namespaces to it.",
		"Keep one entry for {host}, under {key}, whose user may pull all of these: `regkeeper sync` keeps it so.",
	},
	{
		"helper-failed", Error, "The credential helper fails",
		"{where} fails: {why}. {consumer} gives up, though a login may lie beside it.",
		"Run it by hand as that user: `echo {host} | {where} get`. Or send that registry back to the file: \"credHelpers\": {\"{host}\": \"\"}, then `regkeeper sync`.",
	},
	{
		"helper-fails-silently", Warning, "The credential helper fails, and nobody is told",
		"{where} fails: {why}. {consumer} goes on without its login, so that the error shown is the registry's.",
		"Run it by hand as that user: `echo {host} | {where} get`. Or send that registry back to the file: \"credHelpers\": {\"{host}\": \"\"}, then `regkeeper sync`.",
	},
	{
		"client-gives-up", Error, "The client fails before it asks the registry",
		"{consumer} gives up: {why}. The rule: {rule}.",
		"Repair or remove what it stumbles over; `regkeeper sync` writes what every client reads.",
	},
	{
		"source-dropped", Warning, "One broken entry or failing helper takes the good entries with it",
		"{where} is left out as a whole: {why}. {consumer} tells nobody where it is the file of its home folder.",
		"Repair or remove the broken entry; keep helpers out of that file, or see that they run as the runner's user. `regkeeper sync` writes plain entries.",
	},
	{
		"helper-hides-entries", Info, "A helper is asked in place of the entries",
		"{where} has a login for {host} that {consumer} does not look at: it asks {used}.",
		"If that entry is the good one: \"credHelpers\": {\"{host}\": \"\"} sends {host} back to the file.",
	},
	{
		"config-broken", Warning, "A file or variable cannot be read",
		"{where} cannot be read as {consumer} does: {why}.",
		"Repair it. regkeeper writes no broken file, and leaves one alone until it is repaired: `regkeeper status` names the line.",
	},
	{
		"docker-auth-config-shadows", Warning, "DOCKER_AUTH_CONFIG comes before the file",
		"{consumer} takes {login} of DOCKER_AUTH_CONFIG, and not the one in {where}, which `docker login` and mounted files write.",
		"Keep one of the two: unset DOCKER_AUTH_CONFIG in the jobs, or keep the variable and not the file. regkeeper can keep either.",
	},
	{
		"docker-auth-config-ignored", Warning, "DOCKER_AUTH_CONFIG is set, and not read",
		"{consumer} does not take DOCKER_AUTH_CONFIG: {why}.",
		"Write it as {\"auths\": {\"{key}\": {\"auth\": \"...\"}}} with no other field; or use the file that {consumer} reads. `regkeeper sync` keeps a file.",
	},
	{
		"docker-secrets-everywhere", Warning, "The secrets DOCKER_USERNAME and DOCKER_PASSWORD go to every registry",
		"The repository or its owner has secrets of these names, and {consumer} shows that login to any registry, {host} as well, before it looks into any file.",
		"Rename the secrets (they are meant for steps of the workflow), or give the job's container `credentials:` of its own.",
	},
	{
		"login-hidden", Info, "Another login comes first",
		"The login in {where} is not used: {why}.",
		"If it is the good one, remove or replace the one that comes first.",
	},
	{
		"identity-token-ignored", Warning, "The entry holds a token that this client does not read",
		"{where} holds an identity token for {host} in place of a user and a password, and {consumer} reads these alone: to it there is no login.",
		"Use a user and a token made for machines: `regkeeper sync` delivers those as `auth`, which every client reads.",
	},
	{
		"entry-empty", Warning, "The entry holds no login",
		"{where} has an entry for {host} without a login in it. Where `docker login` uses a helper it leaves such entries behind.",
		"See what the helper has, or have the login written: `regkeeper sync`.",
	},
	{
		"pull-secret-unusable", Warning, "A pull Secret is missing or unusable",
		"{where}: {why}.",
		"Make it in the pod's own namespace, of type kubernetes.io/dockerconfigjson: a secrets target in regkeeper.yaml keeps it there, in every namespace, and on the ServiceAccounts.",
	},
	{
		"containerd-login-ignored", Warning, "containerd does not use this login",
		"{where}: {why}. hosts.toml has no place for logins.",
		"Give the login to the kubelet: `regkeeper install kubelet`, or a secrets target.",
	},

	// The surroundings.

	{
		"config-read-only", Warning, "docker login cannot save to this file",
		"{where} {how}. Logins in it work; `docker login` and `docker logout` there fail to save.",
		"Leave the file to who mounts it, and take `docker login` out of the job; or mount the folder in place of the file, to be written to. `regkeeper sync` on the host replaces the login without the job.",
	},
	{
		"pull-secrets-unused", Warning, "imagePullSecrets do not reach the job's pulls",
		"The pod has imagePullSecrets ({secrets}). The kubelet uses them for the pod's own containers; images of jobs are pulled by {consumer} through its Docker daemon, with the logins {consumer} finds, and these are none of them.",
		"Put a login into the runner's container: a pods target in regkeeper.yaml writes it within a second of the pod's start, and keeps it; or mount the Secret as config.json there.",
	},
	{
		"daemon-elsewhere", Info, "The daemon pulls with the client's login",
		"{consumer} speaks to the daemon at {daemon}. It is the client that reads the logins and sends one along with each pull; the daemon's own machine or container is not looked at.",
		"Keep the login where {consumer} runs. Certificates, proxies and insecure-registries are the daemon's.",
	},
	{
		"login-beside-daemon", Warning, "The login lies beside the daemon, where no client reads it",
		"There is a login in {daemon login}, beside the daemon. The daemon never reads it: clients send theirs along, and {consumer} runs elsewhere.",
		"Put it where {consumer} runs: a pods target with `container:` of the runner, or a file target on its host.",
	},
	{
		"image-present", Warning, "The image is there already, which hides that the login fails",
		"The image is already where it would be pulled to. {consumer} may use it without asking the registry: jobs pass until the image is cleaned up or another node takes them.",
		"Repair the login now. The pull policy always (`pull: true`, `if-not-present` no more) has each job prove its right.",
	},
}
