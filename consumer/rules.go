package consumer

// The rules, by what they are about.
var (
	// Of config.json, as docker/cli reads it.

	ruleExact = Rule{
		"exact-key", "the entry whose key is the registry's name, letter for letter, comes first",
		"docker/cli, cli/config/credentials/file_store.go, Get",
	}
	ruleHostname = Rule{
		"hostname-of-key", "without such an entry, one whose key is a URL or a path of that host and port serves as well",
		"docker/cli, cli/config/credentials/file_store.go, Get and ConvertToHostname",
	}
	ruleChance = Rule{
		"one-of-several", "of several such entries whichever the map gives first is taken: another one each time",
		"docker/cli, cli/config/credentials/file_store.go, Get",
	}
	ruleHubKey = Rule{
		"docker-hub-key", "Docker Hub's login stands under https://index.docker.io/v1/ and nowhere else",
		"docker/cli, cli/config/configfile/file.go, getAuthConfigKey",
	}
	ruleNoEntry = Rule{
		"no-entry", "without an entry that matches, it asks as nobody",
		"docker/cli, cli/config/credentials/file_store.go, Get",
	}
	ruleEmptyEntry = Rule{
		"empty-entry", "an entry without a login counts as none",
		"docker/cli, cli/config/types/authconfig.go",
	}
	ruleHelperOfHost = Rule{
		"credential-helper", "a helper under credHelpers is asked in place of the entries under auths",
		"docker/cli, cli/config/configfile/file.go, getConfiguredCredentialStore",
	}
	ruleHelperOfAll = Rule{
		"credentials-store", "the helper under credsStore is asked for every registry without one of its own, public ones too, in place of the entries under auths",
		"docker/cli, cli/config/configfile/file.go, getConfiguredCredentialStore",
	}
	ruleDetectedStore = Rule{
		"detected-store", "where no login is configured at all, the helper of the platform is asked if its program is there",
		"docker/cli, cli/config/config.go, LoadDefaultConfigFile",
	}
	ruleHelperHasNone = Rule{
		"helper-has-none", "a helper that says it has no login for the registry is no error; entries under auths are not asked after it",
		"docker/cli, cli/config/credentials/native_store.go, getCredentialsFromStore",
	}
	ruleHelperFails = Rule{
		"helper-fails", "a helper that fails fails the pull, of public images too",
		"docker/cli, cli/command/registry.go, RetrieveAuthTokenFromImage",
	}
	ruleHelperFailsSilently = Rule{
		"helper-fails-silently", "when a helper fails, docker pull takes the entry under auths if there is one, and says nothing of it; docker run fails",
		"docker/cli before 29, cli/command/registry.go, ResolveAuthConfig and RetrieveAuthTokenFromImage",
	}
	ruleVariable = Rule{
		"variable-first", "DOCKER_AUTH_CONFIG comes before config.json and its helpers, for the registries that it names letter for letter",
		"docker/cli, cli/config/configfile/file.go, GetCredentialsStore; cli/config/memorystore",
	}
	ruleVariableStrict = Rule{
		"variable-is-strict", `DOCKER_AUTH_CONFIG counts only in the form {"auths": {"host": {"auth": "..."}}}; with any other field it is passed over as a whole`,
		"docker/cli, cli/config/configfile/file.go, parseEnvConfig",
	}
	ruleVariableUnread = Rule{
		"variable-not-read", "DOCKER_AUTH_CONFIG is not read: the docker CLI does so from 28.3 on",
		"docker/cli 28.3, release notes",
	}
	ruleBrokenFile = Rule{
		"broken-file", "a config.json that is no JSON, or has a field of a wrong kind, is read as far as it goes, with a warning",
		"docker/cli, cli/config/config.go, LoadDefaultConfigFile",
	}
	ruleBrokenEntry = Rule{
		"broken-entry", "one entry whose auth is not base64 of user:password ends the reading: of the other entries, some are left undecoded, by chance",
		"docker/cli, cli/config/configfile/file.go, LoadFromReader",
	}
	ruleBrokenFails = Rule{
		"broken-file-fails", "a config.json that cannot be read as a whole fails every pull",
		"docker/cli, cli/config/config.go, Load",
	}

	// Of runners of Actions.

	ruleJobCredentials = Rule{
		"workflow-credentials", "credentials of the workflow's container or service come before everything",
		"gitea/runner, act/runner/run_context.go, handleCredentials",
	}
	ruleJobCredentialsBroken = Rule{
		"workflow-credentials-broken", "credentials must be a username and a password, neither of them empty: else the job fails",
		"gitea/runner, act/runner/run_context.go, handleCredentials",
	}
	ruleJobSecrets = Rule{
		"docker-secrets", "the secrets DOCKER_USERNAME and DOCKER_PASSWORD come before config.json, for any registry at all",
		"gitea/runner, act/runner/run_context.go, handleCredentials",
	}
	ruleUserOnly = Rule{
		"user-and-password-only", "an entry with an identity token and without user and password counts as none",
		"nektos/act, pkg/container/docker_pull.go, getImagePullOptions",
	}
	ruleAnonymousRetry = Rule{
		"anonymous-retry", "a pull whose login is refused is tried again as nobody: a stale login is not seen where images are public, and the error shown is that of nobody",
		"nektos/act, pkg/container/docker_pull.go, NewDockerPullExecutor",
	}
	ruleActHub = Rule{
		"act-docker-hub", "Docker Hub is looked for as index.docker.io, also where a helper is asked; an image written with docker.io/ as docker.io, so that it misses Docker Hub's login",
		"nektos/act, pkg/container/docker_auth.go, LoadDockerAuthConfig",
	}
	ruleServicesTakeOver = Rule{
		"services-take-over", "in a job with services the login of the workflow's container, and that of the secrets, gives way to the credentials of whichever service comes last, or to none: then config.json counts",
		"gitea/runner, act/runner/run_context.go, startJobContainer",
	}
	ruleOwnPulls = Rule{
		"runner-pulls-itself", "images of jobs are pulled with the login that the runner finds, by whichever Docker daemon it uses: imagePullSecrets of the runner's own pod never reach these pulls",
		"gitea/runner, act/container/docker_pull.go",
	}
	rulePresent = Rule{
		"present-image", "an image that is already there is used without asking the registry, unless pulling is forced",
		"nektos/act, pkg/container/docker_pull.go, NewDockerPullExecutor",
	}

	// Of GitLab Runner.

	ruleGitlabOrder = Rule{
		"gitlab-sources", "of several sources the first that names a path wins for it: DOCKER_AUTH_CONFIG, the config.json or .dockercfg of the runner's user, the logins of the job",
		"gitlab-runner, helpers/docker/auth/auth.go, AllConfigs",
	}
	ruleGitlabLongest = Rule{
		"gitlab-longest-path", "the longest key that the image's path begins with wins, from whichever source",
		"gitlab-runner, helpers/docker/auth/auth.go, ConfigForImage",
	}
	ruleGitlabBroken = Rule{
		"gitlab-source-dropped", "a source with one broken entry or one failing helper is left out as a whole; of the file in the home folder nobody is told",
		"gitlab-runner, helpers/docker/auth/auth.go, AllConfigs and getHomeDirConfiguration",
	}
	ruleGitlabTraversal = Rule{
		"gitlab-helper-path", "a helper's name with a path in it fails the job",
		"gitlab-runner, helpers/docker/auth/auth.go, readConfigsFromCredentialsStore",
	}
	ruleGitlabKey = Rule{
		"gitlab-key", "a key with https:// or http:// stands for its host; one without stands for itself, so that host/v1/, host/v2 and another port match no image of that host",
		"gitlab-runner, helpers/docker/auth/auth.go, convertToRegistryPath",
	}
	ruleGitlabNone = Rule{
		"gitlab-none", "without a key that matches, the image is pulled as nobody",
		"gitlab-runner, helpers/docker/auth/auth.go, ConfigForImage",
	}
	ruleGitlabIgnores = Rule{
		"gitlab-ignores-docker-config", "DOCKER_CONFIG, and DOCKER_AUTH_CONFIG in the environment of the runner's own process, are not read",
		"gitlab-runner, helpers/docker/auth/auth.go, AllConfigs",
	}
	ruleGitlabJobVariable = Rule{
		"gitlab-job-variable", "DOCKER_AUTH_CONFIG of a job's variables takes the place of the one in the environment of config.toml",
		"gitlab-runner, common/build.go, GetAllVariables",
	}
	ruleGitlabOnce = Rule{
		"gitlab-no-retry", "a login that is refused is not replaced by another one",
		"gitlab-runner, executors/docker/internal/pull/manager.go",
	}
	ruleGitlabPresent = Rule{
		"gitlab-if-not-present", "with the pull policy if-not-present an image that is there is used without asking the registry, one that another job pulled with its login too",
		"gitlab-runner, executors/docker/internal/pull/manager.go",
	}
	ruleGitlabPullSecrets = Rule{
		"gitlab-pull-secrets", "the Secrets under image_pull_secrets are named in the build pod before the one that is made of the runner's own logins",
		"gitlab-runner, executors/kubernetes/kubernetes.go, prepareImagePullSecrets",
	}

	// Of kubelets.

	ruleKubeletOrder = Rule{
		"kubelet-order", "logins of the pod's pull Secrets are tried first, then that of the node's file, then those of provider plugins, each until one is accepted",
		"kubernetes, pkg/credentialprovider/secrets/secrets.go, MakeDockerKeyring; pkg/kubelet/images/image_manager.go",
	}
	ruleKubeletMatch = Rule{
		"kubelet-match", "a key matches by host, with * for a part between dots, by the very same port, and by a path that the image's begins with; the longer one comes first",
		"kubernetes, pkg/credentialprovider/keyring.go, URLsMatch",
	}
	ruleKubeletHub = Rule{
		"kubelet-docker-hub", "images of Docker Hub take the login under index.docker.io when no other key matches",
		"kubernetes, pkg/credentialprovider/keyring.go, isDefaultRegistryMatch",
	}
	ruleKubeletNone = Rule{
		"kubelet-none", "without a login that matches, the image is pulled as nobody; with one, never",
		"kubernetes, pkg/kubelet/images/puller.go",
	}
	ruleKubeletBroken = Rule{
		"kubelet-broken-secret", "a pull Secret whose content is no config.json fails the pull",
		"kubernetes, pkg/credentialprovider/secrets/secrets.go, secretsToTrackedDockerConfigs",
	}
	ruleKubeletSecretType = Rule{
		"kubelet-secret-type", "a Secret counts if its type is kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg, and it has the key of that type",
		"kubernetes, pkg/credentialprovider/secrets/secrets.go, secretsToTrackedDockerConfigs",
	}
	ruleKubeletNode = Rule{
		"kubelet-node-file", "of the node the first config.json that can be read counts, of /var/lib/kubelet, the kubelet's folder, ~/.docker and /.docker; then the first .dockercfg",
		"kubernetes, pkg/credentialprovider/config.go, ReadDockerConfigFile",
	}
	ruleKubeletFields = Rule{
		"kubelet-fields", "credsStore, credHelpers, identitytoken and registrytoken are not read",
		"kubernetes, pkg/credentialprovider/config.go, DockerConfigEntry",
	}
	ruleKubeletProvider = Rule{
		"kubelet-provider", "a provider plugin is asked when a pattern of its matchImages matches the image",
		"kubernetes, pkg/credentialprovider/plugin/plugin.go, isImageAllowed",
	}
	ruleKubeletPresent = Rule{
		"kubelet-present", "an image that is on the node is used without a pull when the policy says so; from 1.35 on only by pods with a login that pulled it",
		"kubernetes, KEP-2535",
	}

	// Of containers/image: podman, buildah, skopeo.

	rulePodmanOrder = Rule{
		"podman-files", "the first file that has a login for the image wins: auth.json of the session, auth.json of the user, config.json of Docker, .dockercfg",
		"containers/image, pkg/docker/config/config.go, getAuthFilePaths",
	}
	rulePodmanNamespaces = Rule{
		"podman-namespaces", "a key may name a part of the image's path; the longest wins",
		"containers/image, pkg/docker/config/config.go, authKeyLookupOrder",
	}
	rulePodmanNormal = Rule{
		"podman-host-of-key", "without such a key, one that is a URL of the host serves as well; names of Docker Hub are one",
		"containers/image, pkg/docker/config/config.go, normalizeAuthFileKey",
	}
	rulePodmanHelper = Rule{
		"podman-helper", "a helper under credHelpers is asked in place of that file's entries; credsStore is not read",
		"containers/image, pkg/docker/config/config.go, findCredentialsInFile",
	}
	rulePodmanAuthOnly = Rule{
		"podman-auth-only", "of an entry only auth counts, and identitytoken beside it",
		"containers/image, pkg/docker/config/config.go, decodeDockerAuth",
	}
	rulePodmanBroken = Rule{
		"podman-broken", "a file that cannot be read, an auth that is not base64, or a helper that fails, fails the pull",
		"containers/image, pkg/docker/config/config.go, getCredentialsWithHomeDir",
	}
	rulePodmanAddress = Rule{
		"podman-no-ipv6", "a registry that is named by an IPv6 address in brackets is no registry's name to it",
		"containers/image, docker/reference/regexp.go",
	}
	rulePodmanGiven = Rule{
		"podman-given-file", "REGISTRY_AUTH_FILE is the only file looked at; so is, for podman and buildah, config.json of DOCKER_CONFIG; podman before 4.7 gives up if it is not there",
		"containers/common, pkg/auth/auth.go, GetDefaultAuthFile and CheckAuthFile",
	}
	rulePodmanHelpers = Rule{
		"podman-credential-helpers", "credential-helpers of registries.conf says which helpers are asked, in order; containers-auth.json stands for the files",
		"containers/image, pkg/sysregistriesv2, CredentialHelpers",
	}
	rulePodmanNone = Rule{
		"podman-none", "without a login that matches, it asks as nobody",
		"containers/image, pkg/docker/config/config.go, getCredentialsWithHomeDir",
	}

	// Of go-containerregistry: crane, ko, cosign, kaniko.

	ruleGgcrFile = Rule{
		"ggcr-file", "config.json of Docker is read where there is one in ~/.docker or in DOCKER_CONFIG; else REGISTRY_AUTH_FILE, else auth.json of podman",
		"go-containerregistry, pkg/authn/keychain.go, ResolveContext",
	}
	ruleGgcrNoFile = Rule{
		"ggcr-no-file", "without any of these files it asks as nobody, DOCKER_AUTH_CONFIG or not",
		"go-containerregistry, pkg/authn/keychain.go, ResolveContext",
	}
	ruleGgcrRepository = Rule{
		"ggcr-repository-first", "the login is looked up by the repository in full, then by the registry",
		"go-containerregistry, pkg/authn/keychain.go, ResolveContext",
	}
	ruleKanikoFolder = Rule{
		"kaniko-folder", "the image sets DOCKER_CONFIG to /kaniko/.docker",
		"kaniko, deploy/Dockerfile",
	}
	ruleKanikoClouds = Rule{
		"kaniko-clouds", "after config.json it asks what Google, Amazon and Azure have for the machine",
		"kaniko, pkg/creds",
	}

	// Of the others.

	ruleOrasEntry = Rule{
		"oras-entry", "an entry is read when it is used: a broken one harms no other",
		"oras-go, registry/remote/credentials/internal/config/config.go, GetCredential",
	}
	ruleOrasHub = Rule{
		"oras-docker-hub", "registry-1.docker.io stands for Docker Hub's key",
		"oras-go, registry/remote/credentials/registry.go, ServerAddressFromHostname",
	}
	ruleBuildkitHub = Rule{
		"buildkit-docker-hub", "the client that starts the build lends its logins; Docker Hub is asked for as registry-1.docker.io",
		"moby/buildkit, session/auth/authprovider/authconfigprovider.go",
	}
	ruleContainerdHosts = Rule{
		"containerd-hosts", "hosts.toml has no place for a login, and with config_path set those under registry.configs are not used",
		"containerd, internal/cri/server/images/image_pull.go, registryHosts",
	}
	ruleContainerdConfigs = Rule{
		"containerd-configs", "without config_path the login under registry.configs of the very host is used, when the kubelet brings none",
		"containerd, internal/cri/server/images/image_pull.go, registryHosts",
	}
	ruleK3sConfigs = Rule{
		"k3s-configs", "the login under configs of the endpoint's host is used; K3s reads the file when it starts",
		"k3s, pkg/agent/containerd/config.go",
	}
	ruleFields = Rule{
		"login-fields", "a username and password come first, then the identity token, then auth",
		"containerd, internal/cri/server/images/image_pull.go, ParseAuth",
	}
)
