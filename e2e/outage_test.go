package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// served is a regkeeper that serves its registry to a cluster's nodes.
type served struct {
	*product
	host   string
	daemon *process.Process
}

func serves(t *testing.T, c *kubernetes.Cluster, registries, upstreams string) *served {
	t.Helper()
	host, err := peers.FreeAddress(c.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{product: newProduct(t, ""), host: host}
	s.configure(fmt.Sprintf(`
registries:
  - {host: %q, source: {builtin: {}}, insecure: true}
%sserve:
  health: {listen: "127.0.0.1:0"}
  registry: {listen: %[1]q%[3]s}
`, host, registries, upstreams))
	s.daemon = s.up()
	eventually(t, time.Minute, "the registry at "+host, func() error {
		_, err := remote.Catalog(t.Context(), insecure(t, host), remote.WithAuth(s.token("probe", "pull")))
		return err
	})
	return s
}

func insecure(t *testing.T, host string) name.Registry {
	t.Helper()
	registry, err := name.NewRegistry(host, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return registry
}

func (s *served) token(name, scopes string) *authn.Basic {
	s.t.Helper()
	made := decode[struct{ Token string }](s.t, s.must("registry", "token", "create", "--name", name, "--scope", scopes, "-o", "json"))
	return &authn.Basic{Username: "regkeeper", Password: made.Token}
}

// The registry is gone, and pulls go on: the node asks the mirror first, as
// `install containerd` has it, and the mirror has what was pulled through it.
func TestPullsGoOnWithoutTheRegistry(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	namespace := c.Namespace(t)
	origin := serves(t, c, "", "")
	push := origin.token("push", "pull,push")
	images := map[string]string{}
	for _, repository := range []string{"early", "late", "never"} {
		ref := origin.host + "/team/" + repository + ":1"
		tag, err := name.NewTag(ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, busybox.New(t, busybox.Spec{Mark: ref}), remote.WithAuth(push)); err != nil {
			t.Fatal(err)
		}
		images[repository] = ref
	}
	login := filepath.Join(t.TempDir(), "login")
	writeText(t, login, push.Password)
	mirror := serves(t, c, fmt.Sprintf("  - {host: %q, source: {static: {username: regkeeper, password: {file: %q}}}, insecure: true, verify: false}\n", origin.host, login),
		fmt.Sprintf(", upstreams: [{host: %q, fresh: 0s}]", origin.host))

	c.AllowHTTP(t, origin.host)
	install := mirror.command("install", "containerd", "--for", origin.host, "--mirror", "http://"+mirror.host,
		"--document", c.HostsFile(origin.host), "--username", "regkeeper", "--password-stdin", "--write")
	install.Stdin = strings.NewReader(mirror.token("node", "pull").Password)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("install containerd: %v\n%s", err, out)
	}

	n := &nodeRegistry{product: mirror.product, c: c}
	n.runs("with the registry", namespace, "early", images["early"])
	// Another node pulled this one before.
	prefix := strings.Replace(origin.host, ":", "_", 1)
	mirror.must("image", "copy", mirror.host+"/"+prefix+"/team/late:1", mirror.host+"/elsewhere/late:1")
	origin.daemon.Stop()
	n.runs("without the registry", namespace, "late", images["late"])

	n.makes(namespace, "never", "default", images["never"])
	eventually(t, time.Minute, "what nobody pulled before to be told of", func() error {
		statuses := n.pod(namespace, "never").Status.ContainerStatuses
		if len(statuses) == 0 || statuses[0].State.Waiting == nil || statuses[0].State.Waiting.Message == "" {
			return fmt.Errorf("its status is %v", statuses)
		}
		return nil
	})
	mirror.daemon.Stop()
}
