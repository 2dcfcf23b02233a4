// Package differential_test holds package consumer to the clients' own libraries:
// worlds are drawn, the libraries are asked in them, and the decision must say the
// same.
//
// The libraries are in programs of their own, below peers/, each of which is a
// module that pins them.
package differential_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/consumer/differential/peer"
	"github.com/regkeeper/regkeeper/credential"
)

var (
	count = flag.Int("cases", 2000, "how many cases each client is held to")
	seed  = flag.Uint64("seed", 0, "where they begin; 0 for somewhere else each time")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64N(1 << 32)
	}
	for name, value := range map[string]string{"rapid.checks": fmt.Sprint(*count), "rapid.seed": fmt.Sprint(*seed), "rapid.nofailfile": "true"} {
		set := true
		flag.Visit(func(f *flag.Flag) { set = set && f.Name != name })
		if !set {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// clients are the clients, by the program that answers for each and the name that
// it has there.
var clients = []struct{ client, program, as string }{
	{"docker", "docker", "docker"},
	{"docker-28.2", "docker28", "docker-28.2"},
	{"buildkit", "docker", "buildkit"},
	{"go-containerregistry", "docker", "ggcr"},
	{"kaniko", "docker", "ggcr"},
	{"oras", "docker", "oras"},
	{"podman", "podman", "podman"},
	{"skopeo", "podman", "skopeo"},
	{"kubelet", "kubelet", "kubelet"},
	{"gitlab-runner", "gitlab", "gitlab-runner"},
	{"gitlab-runner-kubernetes", "gitlab", "gitlab-runner-kubernetes"},
	{"act", "act", "act"},
	{"gitea-runner", "gitea", "gitea-runner"},
}

func TestClients(t *testing.T) {
	t.Parallel()
	for _, c := range clients {
		t.Run(c.client, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.client, c.program, c.as)
			rapid.Check(t, func(rt *rapid.T) {
				w := draw(rt, c.client)
				if fault := b.compare(w); fault != "" {
					rt.Fatalf("%s\n%s", fault, w)
				}
			})
			t.Logf("%s: %d cases from seed %d: %s", c.client, b.cases, *seed, b.tally)
		})
	}
}

// bench is where a client and what is said of it are compared.
type bench struct {
	client consumer.Consumer
	as     string
	*program
	// cluster is the kubelet that takes the Secret which GitLab Runner makes.
	cluster *program
	cases   int
	tally   tally
}

// tally says how many cases were of which kind, so that it shows if a generator
// draws nothing of note.
type tally struct{ login, none, fails, chance int }

func (t tally) String() string {
	return fmt.Sprintf("%d with a login, %d without, %d that fail, %d with more than one outcome", t.login, t.none, t.fails, t.chance)
}

func newBench(t testing.TB, client, name, as string) *bench {
	t.Helper()
	c, err := consumer.Find(client)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{client: c, as: as, program: start(t, name)}
	if client == "gitlab-runner-kubernetes" {
		b.cluster = start(t, "kubelet")
	}
	return b
}

// environment is that of the client.
func (b *bench) environment(w world) map[string]string {
	env := map[string]string{"HOME": b.root + homeFolder, "PATH": b.path(w.store)}
	for name, value := range w.env {
		env[name] = strings.ReplaceAll(value, "$ROOT", b.root)
	}
	if b.client.Name == "kaniko" && w.env["DOCKER_CONFIG"] == "" {
		env["DOCKER_CONFIG"] = b.root + "/kaniko/.docker"
	}
	return env
}

func (b *bench) question(w world) peer.Question {
	q := peer.Question{
		Client: b.as, Image: w.image, Env: b.environment(w), Root: b.root, Times: 3,
		Payload: w.payload, Secrets: w.secrets, Credentials: w.credentials, Service: w.service, PullSecrets: w.pulls,
	}
	switch {
	case w.variables != nil:
		q.Variable = *w.variables
	case w.environment != nil:
		q.Variable = *w.environment
	}
	return q
}

// surroundings are the same for the decision.
func (b *bench) surroundings(w world) consumer.Surroundings {
	around := consumer.Surroundings{
		Env: b.environment(w), Home: b.root + homeFolder, UID: userID(), Dir: b.root + workFolder,
		ReadFile: b.readFile(w.files), Helpers: fakeHelpers{store: w.store}, DefaultStore: w.store,
		Job: consumer.Job{Secrets: w.secrets, Credentials: w.credentials, Service: w.service},
	}
	if w.variables != nil {
		around.Job.Variables = map[string]string{"DOCKER_AUTH_CONFIG": *w.variables}
	}
	if w.environment != nil {
		around.Job.Environment = map[string]string{"DOCKER_AUTH_CONFIG": *w.environment}
	}
	for _, p := range w.payload {
		around.Job.Payload = append(around.Job.Payload, consumer.Payload{Type: p.Type, URL: p.URL, Username: p.Username, Password: credential.NewSecret(p.Password)})
	}
	for _, s := range w.pulls {
		around.Pod.Secrets = append(around.Pod.Secrets, consumer.PullSecret{Namespace: "team", Name: s.Name, Type: s.Type, Data: s.Data})
		around.Job.PullSecrets = append(around.Job.PullSecrets, s.Name)
	}
	return around
}

// answers are those of the client, asked once or many times.
func (b *bench) answers(w world, times int) ([]peer.Answer, error) {
	q := b.question(w)
	q.Times = times
	if b.cluster == nil {
		return b.ask(q)
	}
	// The Secret that the runner makes is read by a kubelet whose node has nothing.
	made, err := b.ask(q)
	if err != nil {
		return nil, err
	}
	var all []peer.Answer
	for _, a := range made {
		if a.Error != "" {
			all = append(all, a)
			continue
		}
		of := peer.Question{Client: "kubelet", Image: w.image, Root: b.cluster.root, Times: times, PullSecrets: slices.Clone(w.pulls)}
		for _, l := range a.Tries {
			of.PullSecrets = append(of.PullSecrets, peer.PullSecret{
				Name: "runner", Type: "kubernetes.io/dockercfg", Data: map[string][]byte{".dockercfg": []byte(l.Password)},
			})
		}
		taken, err := b.cluster.ask(of)
		if err != nil {
			return nil, err
		}
		all = append(all, taken...)
	}
	return all, nil
}

// most is how often a client is asked at once for an outcome that is claimed and was
// not seen. A map of Go begins with each of its entries once in eight times, and two
// of them may have to.
const most = 2048

// compare says what the decision and the client differ in; nothing if they agree.
func (b *bench) compare(w world) string {
	b.cases++
	if err := b.write(w.files); err != nil {
		return "write the world: " + err.Error()
	}
	decision, err := b.client.Decide(w.image, b.surroundings(w))
	if err != nil {
		return "decide: " + err.Error()
	}
	b.count(decision)
	claims := make([]peer.Answer, len(decision.Outcomes))
	unseen := map[int]peer.Answer{}
	for i, o := range decision.Outcomes {
		if o.Unknown {
			return "a helper was asked, and the outcome is unknown"
		}
		claims[i] = claim(o)
		unseen[i] = claims[i]
	}
	for times := 4; times <= most; times *= 2 {
		answers, err := b.answers(w, times)
		if err != nil {
			return "ask the client: " + err.Error()
		}
		for _, a := range answers {
			at := slices.IndexFunc(claims, func(c peer.Answer) bool { return same(c, a) })
			if at < 0 && b.permuted(decision, a) {
				clear(unseen)
				continue
			}
			if at < 0 {
				return fmt.Sprintf("the client does what is not among the outcomes:\n  client:   %s\n  outcomes: %s", show(a), showAll(claims))
			}
			delete(unseen, at)
		}
		if len(unseen) == 0 {
			return ""
		}
	}
	return fmt.Sprintf("the client never does what is among the outcomes:\n  %s", showAll(slices.Collect(maps.Values(unseen))))
}

// permuted says whether the client tries the logins in an order that a map gave
// them. A kubelet has the logins that have one key after all, of one document, in
// the order of a map; across keys and documents the order must be the very one.
func (b *bench) permuted(decision consumer.Decision, a peer.Answer) bool {
	if b.client.Name != "kubelet" && b.client.Name != "gitlab-runner-kubernetes" || a.Error != "" {
		return false
	}
	for _, o := range decision.Outcomes {
		c := claim(o)
		if o.Err != nil || len(c.Tries) != len(a.Tries) {
			continue
		}
		agree := true
		for from := 0; from < len(o.Tries); {
			to := from + 1
			for to < len(o.Tries) && b.document(o.Tries[to]) == b.document(o.Tries[from]) && effective(o.Tries[to].Key) == effective(o.Tries[from].Key) {
				to++
			}
			agree = agree && slices.Equal(sorted(c.Tries[from:to]), sorted(a.Tries[from:to]))
			from = to
		}
		if agree {
			return true
		}
	}
	return false
}

// document is where a login comes from, as a kubelet sees it: GitLab Runner puts its
// own into one Secret.
func (b *bench) document(f consumer.Found) string {
	if b.cluster != nil && !strings.HasPrefix(f.Where, "Secret ") {
		return "the runner's Secret"
	}
	return f.Where
}

// effective is the key that a kubelet knows an entry by: host and path, without a
// scheme and the version of an API.
func effective(key string) string {
	_, after, ok := strings.Cut(key, "://")
	if !ok {
		after = key
	}
	u, err := url.Parse("https://" + after)
	if err != nil {
		return key
	}
	for _, version := range []string{"/v1/", "/v2/"} {
		if rest, ok := strings.CutPrefix(u.Path, version); ok {
			u.Path = "/" + rest
			break
		}
	}
	return u.Host + strings.TrimSuffix(u.Path, "/")
}

func sorted(of []peer.Login) []peer.Login {
	return slices.SortedFunc(slices.Values(of), func(x, y peer.Login) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
}

func (b *bench) count(d consumer.Decision) {
	if len(d.Outcomes) > 1 {
		b.tally.chance++
	}
	switch o := d.Outcomes[0]; {
	case o.Err != nil:
		b.tally.fails++
	case len(o.Tries) == 0:
		b.tally.none++
	default:
		b.tally.login++
	}
}

// claim is an outcome as an answer.
func claim(o consumer.Outcome) peer.Answer {
	if o.Err != nil {
		return peer.Answer{Error: o.Err.Error()}
	}
	var a peer.Answer
	for _, f := range o.Tries {
		l := f.Login
		a.Tries = append(a.Tries, peer.Login{
			Username: l.Username, Password: l.Password.Reveal(), IdentityToken: l.IdentityToken.Reveal(), RegistryToken: l.RegistryToken.Reveal(),
		})
	}
	// Answers come as JSON, which has no text that is not UTF-8.
	text, err := json.Marshal(a)
	if err != nil {
		return peer.Answer{Error: err.Error()}
	}
	var sent peer.Answer
	if err := json.Unmarshal(text, &sent); err != nil {
		return peer.Answer{Error: err.Error()}
	}
	return sent
}

func same(a, b peer.Answer) bool {
	return (a.Error == "") == (b.Error == "") && slices.Equal(a.Tries, b.Tries)
}

func show(a peer.Answer) string {
	if a.Error != "" {
		return "gives up: " + a.Error
	}
	if len(a.Tries) == 0 {
		return "asks as nobody"
	}
	return fmt.Sprintf("%+v", a.Tries)
}

func showAll(all []peer.Answer) string {
	shown := map[string]bool{}
	for _, a := range all {
		shown[show(a)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(shown)), " | ")
}
