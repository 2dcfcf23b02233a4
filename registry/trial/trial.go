// Package trial tries a login at the registry of an image, as a client that is
// about to pull it would, and tells what came back: each stage on the way, from
// the look-up of the name to the manifest.
//
// It changes nothing at the registry, and counts as no download: a manifest is
// asked for by HEAD, and by GET only where that was refused, for the reason. It
// refuses to judge what the answers mean, which package explain does, and to show
// a secret: an Answer holds none, whatever a server sends back.
package trial

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/distribution/reference"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// usualTimeout is how long one request may take where nothing else is said.
const usualTimeout = 15 * time.Second

// Config is how registries are reached. The zero Config reaches them as this
// machine does.
type Config struct {
	// TLS is what certificates are checked with; it is not changed.
	TLS *tls.Config
	// Proxy picks the proxy for a request; nil asks the environment, as
	// [http.ProxyFromEnvironment] does.
	Proxy func(*http.Request) (*url.URL, error)
	// Resolver looks up names; nil is the machine's.
	Resolver *net.Resolver
	// Timeout is how long one request may take; zero is 15 seconds.
	Timeout time.Duration
	// Now is the time; nil is the machine's clock.
	Now func() time.Time
}

// Trier tries logins.
type Trier struct {
	config Config

	mu sync.Mutex
	// asked is what [Trier.TryAll] asked before.
	asked []asked
}

// New makes a Trier. It sends nothing.
func New(config Config) *Trier {
	if config.Proxy == nil {
		config.Proxy = http.ProxyFromEnvironment
	}
	if config.Timeout <= 0 {
		config.Timeout = usualTimeout
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Trier{config: config}
}

// Question is what is tried.
type Question struct {
	// Image is a reference, as people write it.
	Image string
	// Login is shown to the registry; an empty one asks as nobody.
	Login consumer.Login
	// Insecure allows plain HTTP where the registry does not speak TLS. A
	// registry on this machine always may be spoken to so. Certificates are
	// checked all the same.
	Insecure bool
	// Plain speaks plain HTTP alone, as clients do at an address that begins
	// with http://.
	Plain bool
}

// Try tries one login. What goes wrong on the way is in the answer; the error is a
// [problem.Error] of kind [problem.Config] if the image is none, or that of ctx.
//
// It takes three requests where the registry hands out tokens and two where it
// does not; one more for the reason of a refusal, and one where plain HTTP is
// tried after TLS.
func (t *Trier) Try(ctx context.Context, q Question) (Answer, error) {
	named, err := reference.ParseNormalizedNamed(q.Image)
	if err != nil {
		return Answer{}, problem.New(problem.Config, "write it as registry/repository:tag", "%q is no image reference: %v", q.Image, err)
	}
	named = reference.TagNameOnly(named)
	host, err := credential.ParseHost(reference.Domain(named))
	if err != nil {
		return Answer{}, err
	}
	target := ""
	switch ref := named.(type) {
	case reference.Digested:
		target = ref.Digest().String()
	case reference.Tagged:
		target = ref.Tag()
	}
	a := &attempt{
		Trier: t, question: q, hide: hiding(q.Login), host: host, repository: reference.Path(named), target: target,
		answer: Answer{Image: named.String(), Host: host, Time: t.config.Now().UTC(), Kind: kindOf(q.Login), Username: q.Login.Username, Ends: endOf(q.Login)},
	}
	defer a.open()()
	if a.root(ctx) && a.login(ctx) {
		a.manifest(ctx)
	}
	return a.answer, ctx.Err()
}

// kindOf says what a client shows of a login: docker/distribution,
// registry/client/auth/session.go, and docker/docker, registry/auth.go.
func kindOf(login consumer.Login) Kind {
	switch {
	case !login.RegistryToken.Empty():
		return RegistryToken
	case !login.IdentityToken.Empty():
		return IdentityToken
	case !login.Empty():
		return Password
	}
	return Nobody
}

// Options are how the registry of a decision is spoken to: see [Question].
type Options struct{ Insecure, Plain bool }

// Trial is one login of a decision, and what became of it.
type Trial struct {
	// Outcome and Try say which: Decision.Outcomes[Outcome].Tries[Try]. Try is
	// -1 for nobody.
	Outcome int `json:"outcome"`
	Try     int `json:"try"`
	// Extra says that the client itself would not ask so: it is asked to tell
	// causes apart. Outcome is -1 then.
	Extra bool `json:"extra,omitempty"`
	// Where and Key are where the login comes from.
	Where  string `json:"where,omitempty"`
	Key    string `json:"key,omitempty"`
	Answer Answer `json:"answer"`
}

// TryAll tries what a client would, in each of the ways in which it can act: the
// logins of an outcome in order, up to the first that is accepted, each login
// once. Where none is accepted, or the client does not get as far as asking, it
// asks as nobody too. It stops where the registry is not reached, or asks to be
// left alone: that is the same for every login.
//
// Its errors are those of [Trier.Try].
func (t *Trier) TryAll(ctx context.Context, d consumer.Decision, o Options) ([]Trial, error) {
	var all []Trial
	var shown []consumer.Login
	nobody := false
	try := func(login consumer.Login, trial Trial) (Answer, error) {
		for i, before := range shown {
			if before.Equal(login) {
				return all[i].Answer, nil
			}
		}
		answer, err := t.once(ctx, Question{Image: d.Image, Login: login, Insecure: o.Insecure, Plain: o.Plain})
		if err != nil {
			return Answer{}, err
		}
		trial.Answer = answer
		shown, all = append(shown, login), append(all, trial)
		return answer, nil
	}
	for i, outcome := range d.Outcomes {
		if len(outcome.Tries) == 0 && outcome.Err == nil && !outcome.Unknown {
			answer, err := try(consumer.Login{}, Trial{Outcome: i, Try: -1})
			if err != nil || unreached(answer) {
				return all, err
			}
			continue
		}
		accepted := false
		for n, found := range outcome.Tries {
			answer, err := try(found.Login, Trial{Outcome: i, Try: n, Where: found.Where, Key: found.Key})
			if err != nil || unreached(answer) {
				return all, err
			}
			if accepted = answer.Pulls(); accepted {
				break
			}
		}
		nobody = nobody || !accepted
	}
	if nobody {
		_, err := try(consumer.Login{}, Trial{Outcome: -1, Try: -1, Extra: true})
		return all, err
	}
	return all, nil
}

// once is Try, of a question that was asked before the answer to that: a wrong
// password that is shown again and again locks its account.
func (t *Trier) once(ctx context.Context, q Question) (Answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, before := range t.asked {
		if same := before.question; same.Image != q.Image || same.Insecure != q.Insecure || same.Plain != q.Plain {
			continue
		}
		// What is not reached is not reached with another login.
		if before.question.Login.Equal(q.Login) || before.answer.Fault() != nil && unreached(before.answer) {
			return before.answer, nil
		}
	}
	answer, err := t.Try(ctx, q)
	if err == nil {
		t.asked = append(t.asked, asked{q, answer})
	}
	return answer, err
}

// asked is a question and its answer.
type asked struct {
	question Question
	answer   Answer
}

// unreached says that no other login is of use.
func unreached(a Answer) bool {
	last := a.Last()
	if last.Fault != nil {
		return last.Stage != Token || last.Fault.Kind != PlainRealm && last.Fault.Kind != BadToken
	}
	return last.Stage == Root || last.Status == http.StatusTooManyRequests
}
