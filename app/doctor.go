package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/explain/scene"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// Health is how a finding is to be taken.
type Health string

// The healths, the worst last.
const (
	Well    Health = "ok"
	Worth   Health = "note"
	Warning Health = "warning"
	Ill     Health = "error"
)

// Finding is what one check found.
type Finding struct {
	// Check is what was looked at: config, source, registry, clock, proxy, login,
	// target, client, helper, rights, policy.
	Check string `json:"check"`
	// Subject is the registry, place or cluster that it is about.
	Subject string `json:"subject"`
	Health  Health `json:"health"`
	Text    string `json:"text"`
	Hint    string `json:"hint,omitempty"`

	kind problem.Kind
}

// Kind is the problem's kind, of an error.
func (f Finding) Kind() problem.Kind { return f.kind }

// Access is a right that regkeeper takes in a cluster, and why.
type Access struct {
	authorizationv1.ResourceAttributes
	Why string
}

const (
	// skewed is how far a clock may be off: tokens are made and checked by times.
	skewed = time.Minute
	// endsSoon is how long before a certificate ends it is told of.
	endsSoon = 14 * 24 * time.Hour
	lookTime = 10 * time.Second
)

// Doctor looks at a whole setup and tells what it finds, as it goes. It changes
// nothing, and one part that is broken keeps it from no other. access are the rights
// that the configuration takes in each cluster.
func Doctor(ctx context.Context, c config.Config, data *Data, access map[config.Cluster][]Access, tell func(Finding)) error {
	d := &doctor{config: c, data: data, tell: tell}
	for _, warning := range c.Warnings {
		d.find("config", "", Warning, "", "%s", warning)
	}
	if len(c.Warnings) == 0 {
		d.find("config", "", Well, "", "%d registries and %d targets", len(c.Registries), len(c.Targets))
	}
	d.proxies()
	for _, r := range c.Registries {
		d.source(ctx, r)
		d.registry(ctx, r)
	}
	d.status(ctx)
	for _, t := range c.Targets {
		d.clients(ctx, t)
		d.policies(ctx, t)
	}
	d.helpers(ctx)
	d.rights(ctx, access)
	return ctx.Err()
}

// status tells how logins and places stand: of all, or, where a part cannot be
// wired, of each target by itself.
func (d *doctor) status(ctx context.Context) {
	status, err := statusOf(ctx, d.config, d.data)
	if err == nil {
		d.logins(status)
		return
	}
	if len(d.config.Targets) == 0 {
		d.fails("config", "", err)
		return
	}
	for i, t := range d.config.Targets {
		alone := d.config
		alone.Targets = d.config.Targets[i : i+1]
		status, err := statusOf(ctx, alone, d.data)
		if err != nil {
			d.fails("target", t.Name, err)
			continue
		}
		if i > 0 {
			status.Registries = nil
		}
		d.logins(status)
	}
}

// proxies looks for addresses that cannot be read: they are passed over silently
// (golang.org/x/net/http/httpproxy).
func (d *doctor) proxies() {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		u, err := url.Parse(value)
		if err != nil || u.Host == "" {
			u, err = url.Parse("http://" + value)
		}
		if err != nil || u.Host == "" {
			d.find("proxy", name, Warning, "write it as http://proxy.example.com:3128; a user and password in it are written with %% for what is no letter or digit",
				"it holds no address, and is passed over: requests go out directly")
		}
	}
}

type doctor struct {
	config config.Config
	data   *Data
	tell   func(Finding)
}

func (d *doctor) find(check, subject string, health Health, hint, text string, args ...any) {
	d.tell(Finding{Check: check, Subject: subject, Health: health, Text: fmt.Sprintf(text, args...), Hint: hint})
}

// fails tells of a check that did not pass.
func (d *doctor) fails(check, subject string, err error) {
	d.tell(Finding{Check: check, Subject: subject, Health: Ill, Text: err.Error(), Hint: problem.HintOf(err), kind: problem.KindOf(err)})
}

// source tries the source's own login without making one.
func (d *doctor) source(ctx context.Context, r config.Registry) {
	reader := newSecretReader(d.data.clusters)
	source, origin, _, err := source(r, d.data, transport.New(transport.Config{}), reader)
	if err != nil {
		d.fails("source", string(r.Host), err)
		return
	}
	minter, ok := source.(credential.Minter)
	if !ok {
		if _, err := source.Issue(ctx, credential.Request{Host: r.Host, Scopes: r.Scopes}); err != nil {
			d.fails("source", string(r.Host), err)
			return
		}
		d.find("source", string(r.Host), Well, "", "%s gives its login", origin)
		return
	}
	n := 0
	for _, err := range minter.Issued(ctx, credential.MarkOf(d.data.Instance, r.Host)) {
		if err != nil {
			d.fails("source", string(r.Host), err)
			return
		}
		n++
	}
	d.find("source", string(r.Host), Well, "", "%s answers, and has %d of our logins", origin, n)
}

// registry asks for the API's root, as nobody: that shows the way there, the
// certificate and the clock.
func (d *doctor) registry(ctx context.Context, r config.Registry) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	ask := func(scheme string) (*http.Request, *http.Response, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+r.Host.API()+"/v2/", nil)
		if err != nil {
			return nil, nil, err
		}
		response, err := transport.New(transport.Config{}).RoundTrip(request)
		return request, response, err
	}
	request, response, err := ask("https")
	if err != nil && (r.Insecure || r.Host.Loopback()) {
		if plain, answer, failed := ask("http"); failed == nil {
			request, response, err = plain, answer, nil
		}
	}
	if request == nil {
		d.fails("registry", string(r.Host), err)
		return
	}
	if proxy, err := http.ProxyFromEnvironment(request); err != nil {
		d.fails("proxy", string(r.Host), problem.Wrap(err, problem.Config, "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY", "choose a proxy"))
	} else if proxy != nil {
		d.find("proxy", string(r.Host), Worth, "NO_PROXY takes hosts out of it; clients in jobs and pods need the same", "requests go through the proxy %s", proxy.Host)
	}
	if err != nil {
		d.fails("registry", string(r.Host), problem.Wrap(err, problem.Unreachable, "regkeeper explain with an image there says at which step", "ask %s", request.URL.Host))
		return
	}
	_ = response.Body.Close()
	page := strings.HasPrefix(response.Header.Get("Content-Type"), "text/html")
	if page || response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		d.find("registry", string(r.Host), Warning, "is it the registry's address, and not a page before it?", "/v2/ answers %s", response.Status)
	} else {
		d.find("registry", string(r.Host), Well, "", "it answers")
	}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		if off := time.Since(date); off.Abs() > skewed {
			d.find("clock", string(r.Host), Warning, "set one of the clocks: logins and tokens are made and checked by time",
				"its clock and this one are %s apart", off.Abs().Round(time.Second))
		} else {
			d.find("clock", string(r.Host), Well, "", "in step")
		}
	}
	if response.TLS != nil && len(response.TLS.PeerCertificates) > 0 {
		if left := time.Until(response.TLS.PeerCertificates[0].NotAfter); left < endsSoon {
			d.find("registry", string(r.Host), Warning, "renew it", "its certificate ends in %s", left.Round(time.Hour))
		}
	}
}

// logins tells how the keyring and the places stand.
func (d *doctor) logins(status keeper.Status) {
	for _, r := range status.Registries {
		switch {
		case r.Phase == keeper.OK:
			d.find("login", string(r.Host), Well, "", "%s is in force", r.Credential)
		case r.Problem == "":
			d.find("login", string(r.Host), Warning, "run regkeeper sync, or regkeeper up", "there is none yet")
		default:
			d.tell(Finding{Check: "login", Subject: string(r.Host), Health: Ill, Text: r.Problem, Hint: r.Hint, kind: problem.Partial})
		}
	}
	for _, p := range status.Targets {
		where := strings.TrimSpace(p.Name + " " + p.Path)
		switch p.Phase {
		case keeper.OK:
			d.find("target", where, Well, "", "holds the logins in force")
		case keeper.Pending:
			d.find("target", where, Warning, cmp.Or(p.Hint, "run regkeeper sync, or regkeeper up"), "%s", cmp.Or(p.Problem, "does not hold the logins in force yet"))
		default:
			d.tell(Finding{Check: "target", Subject: where, Health: Ill, Text: p.Problem, Hint: p.Hint, kind: problem.Partial})
		}
	}
}

// clients has each client that a file is for say which login it takes of it: an
// entry that regkeeper wrote is of no use where something else comes first.
func (d *doctor) clients(ctx context.Context, t config.Target) {
	if t.File == nil || t.File.Format != config.FormatDocker {
		return
	}
	hosts, here := targetHosts(d.config, t), scene.Here(ctx, true)
	for _, path := range filesOf(t) {
		info, err := os.Stat(path)
		if err != nil {
			continue // status has told of it
		}
		if info.Mode().Perm()&0o077 != 0 {
			d.find("client", t.Name+" "+path, Worth, "chmod 600, unless another user's client must read it", "users other than its owner may read it (%s)", info.Mode().Perm())
		}
		around := here
		around.DockerConfig = path
		if home, ok := strings.CutSuffix(path, "/.docker/config.json"); ok && home != around.Home {
			// It is another user's, whose environment is not known.
			around.Home, around.Env = home, map[string]string{}
		}
		for _, host := range hosts {
			d.client(t.Name, path, host, around)
		}
	}
}

// filesOf are the files of a target, as they are there.
func filesOf(t config.Target) (paths []string) {
	for _, pattern := range t.File.Paths {
		found, err := filepath.Glob(pattern)
		if err != nil || t.File.Literal {
			found = []string{pattern}
		}
		paths = append(paths, found...)
	}
	return paths
}

// ownHelper is the helper that regkeeper answers by.
const ownHelper = "docker-credential-regkeeper"

// client has a client say which login for a registry it takes of a file.
func (d *doctor) client(target, path string, host credential.Host, around consumer.Surroundings) {
	where := target + " " + path
	for _, name := range []string{"docker", "gitea-runner", clientGitLab, "podman", "go-containerregistry"} {
		client, err := consumer.Find(name)
		if err != nil {
			continue
		}
		decision, err := client.Decide(string(host)+"/regkeeper/doctor", around)
		if err != nil {
			continue
		}
		asks := slices.ContainsFunc(decision.Looked, func(l consumer.Look) bool { return l.Where == ownHelper })
		for _, o := range decision.Outcomes {
			switch {
			case asks:
				d.find("client", where, Well, "", "%s asks regkeeper itself for %s", name, host)
			case o.Err != nil:
				d.find("client", where, Warning, "regkeeper explain --as "+name+" says what to do", "%s gives up for %s: %v", name, host, o.Err)
			case o.Unknown:
				d.find("client", where, Warning, "a helper comes before the entry that regkeeper writes: take it out, or use regkeeper install helper",
					"%s asks a helper for %s: %s", name, host, o.Rule.Text)
			case len(decision.Outcomes) > 1:
				d.find("client", where, Warning, "keep one entry for a host", "%s takes one of %d logins for %s, by chance", name, len(decision.Outcomes), host)
			case len(o.Tries) > 0 && o.Tries[0].Where != path:
				d.find("client", where, Warning, "take that one out, or deliver there",
					"%s takes the login for %s of %s, before that of this file", name, host, o.Tries[0].Where)
			default:
				continue
			}
			break
		}
	}
}

// helpers looks for the programs that the config.json of targets and of this user
// name.
func (d *doctor) helpers(ctx context.Context) {
	around := scene.Here(ctx, true)
	folder := around.Env["DOCKER_CONFIG"]
	if folder == "" {
		folder = filepath.Join(around.Home, ".docker")
	}
	files := []string{filepath.Join(folder, "config.json")}
	for _, t := range d.config.Targets {
		if t.File != nil && t.File.Format == config.FormatDocker {
			files = append(files, filesOf(t)...)
		}
	}
	slices.Sort(files)
	for _, path := range slices.Compact(files) {
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		read := configfile.New(path)
		err = read.LoadFromReader(file)
		_ = file.Close()
		if err != nil {
			d.find("helper", path, Warning, "regkeeper explain says which clients it stops", "it cannot be read as the docker CLI does")
			continue
		}
		if store := read.CredentialsStore; store != "" {
			d.program(path, store, "every registry")
			d.find("helper", path, Warning, "name helpers under credHelpers, for single registries: regkeeper install helper does",
				"credsStore has %s asked for every registry, public ones too: when it fails, nothing can be pulled", store)
		}
		for host, name := range read.CredentialHelpers {
			d.program(path, name, host)
		}
	}
}

func (d *doctor) program(path, name, host string) {
	program := "docker-credential-" + name
	if _, err := exec.LookPath(program); err != nil {
		d.tell(Finding{
			Check: "helper", Subject: path, Health: Ill, kind: problem.NotFound, Text: program + ", which is asked for " + host + ", is not on PATH",
			Hint: "install it where the client runs, or take it out of the file",
		})
		return
	}
	d.find("helper", path, Well, "", "%s is there, for %s", program, host)
}

// rights asks each cluster whether we may do what we do.
func (d *doctor) rights(ctx context.Context, access map[config.Cluster][]Access) {
	for which, rights := range access {
		name := strings.TrimSpace(which.Kubeconfig + " " + which.Context)
		cluster, err := d.data.clusters.get(which)
		if err != nil {
			d.fails("rights", name, err)
			continue
		}
		denied := 0
		for _, right := range rights {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right.ResourceAttributes}}
			answer, err := cluster.Authorization.SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				d.fails("rights", name, kube.Problem(err, "ask what we may do"))
				denied++
				break
			}
			if !answer.Status.Allowed {
				denied++
				d.tell(Finding{
					Check: "rights", Subject: name, Health: Ill, kind: problem.Denied,
					Text: fmt.Sprintf("we may not %s %s in namespace %q: %s", right.Verb, right.Resource, right.Namespace, right.Why),
					Hint: "regkeeper install kubernetes prints the roles that are needed",
				})
			}
		}
		if denied == 0 {
			d.find("rights", name, Well, "", "all %d that the configuration takes", len(rights))
		}
	}
}

// policies looks at how pods pull images of our registries, in the namespaces that
// a target delivers to.
func (d *doctor) policies(ctx context.Context, t config.Target) {
	if t.Secrets == nil {
		return
	}
	for _, which := range t.Clusters {
		cluster, err := d.data.clusters.get(which)
		if err != nil {
			continue // targets have told of it
		}
		for _, namespace := range t.Secrets.Namespaces {
			if strings.ContainsAny(namespace, "*?[") {
				continue
			}
			pods, err := cluster.Core.Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					d.find("policy", t.Name+" "+namespace, Worth, "", "its pods cannot be listed")
				}
				continue
			}
			never, moving := 0, 0
			for _, pod := range pods.Items {
				for _, container := range pod.Spec.Containers {
					if !d.ours(container.Image) {
						continue
					}
					switch {
					case container.ImagePullPolicy == corev1.PullNever:
						never++
					case container.ImagePullPolicy == corev1.PullIfNotPresent && (strings.HasSuffix(container.Image, ":latest") || !strings.Contains(filepath.Base(container.Image), ":")):
						moving++
					}
				}
			}
			if never > 0 {
				d.find("policy", t.Name+" "+namespace, Worth, "", "%d containers never pull: no login helps them", never)
			}
			if moving > 0 {
				d.find("policy", t.Name+" "+namespace, Worth, "name a tag that does not move, or set imagePullPolicy: Always",
					"%d containers use a tag that moves, and IfNotPresent: a node keeps the one that it has, and asks for no login", moving)
			}
		}
	}
}

func (d *doctor) ours(image string) bool {
	return slices.ContainsFunc(d.config.Registries, func(r config.Registry) bool { return strings.HasPrefix(image, string(r.Host)+"/") })
}
