package fake

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/state"
)

// Store is a fake disk: it keeps the document as the text that a real store
// would write.
type Store struct {
	Calls
	mu   sync.Mutex
	text []byte
}

var _ state.Store = (*Store)(nil)

// Load reads the document; see [state.Store].
func (s *Store) Load(context.Context) (doc *state.Document, err error) {
	err = s.Calls.do(Load, func() error {
		doc, err = s.Document()
		return err
	})
	return doc, err
}

// Save replaces the document; see [state.Store].
func (s *Store) Save(_ context.Context, doc *state.Document) error {
	return s.Calls.do(Save, func() error {
		text, err := state.Encode(doc)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.text = text
		return nil
	})
}

// Document is the document as it was saved last.
func (s *Store) Document() (*state.Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == nil {
		return state.New(), nil
	}
	return state.Decode(s.text)
}

// Lose forgets the document.
func (s *Store) Lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = nil
}

// ErrKilled is what every call of a killed process returns. None has an effect.
var ErrKilled = errors.New("fake process was killed")

// Process is a fake of a process: whatever it does to the world outside goes
// through the ports it hands out, and at one of these calls it can be killed.
type Process struct {
	// KillAt is the number of the call, from 1, at which the process is
	// killed; 0 for none. After lets the call have its effect first.
	KillAt int
	After  bool
	// Only counts calls of these names alone; all if it is empty.
	Only map[string]bool

	mu    sync.Mutex
	calls []string
	dead  bool
}

// Calls are the names of the calls that were counted.
func (p *Process) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.calls...)
}

// Dead says whether the process was killed.
func (p *Process) Dead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *Process) call(name string, effect func() error) error {
	mine, err := p.enter(name)
	if err != nil {
		return err
	}
	err = effect()
	p.mu.Lock()
	defer p.mu.Unlock()
	if mine {
		p.dead = true
	}
	if p.dead {
		return ErrKilled
	}
	return err
}

func (p *Process) enter(name string) (mine bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return false, ErrKilled
	}
	if len(p.Only) == 0 || p.Only[name] {
		p.calls = append(p.calls, name)
		mine = len(p.calls) == p.KillAt
	}
	if mine && !p.After {
		p.dead = true
		return true, ErrKilled
	}
	return mine, nil
}

// Store is the store as the process reaches it.
func (p *Process) Store(inner state.Store) state.Store { return store{p, inner} }

// Minter is the source as the process reaches it.
func (p *Process) Minter(inner credential.Minter) credential.Minter {
	return minter{source{p, inner}, inner}
}

// Source is the source as the process reaches it.
func (p *Process) Source(inner credential.Source) credential.Source { return source{p, inner} }

// Target is the target as the process reaches it.
func (p *Process) Target(inner credential.Target) credential.Target { return target{p, inner} }

// Verifier is the verifier as the process reaches it.
func (p *Process) Verifier(inner credential.Verifier) credential.Verifier { return verifier{p, inner} }

type (
	store struct {
		process *Process
		inner   state.Store
	}
	source struct {
		process *Process
		inner   credential.Source
	}
	minter struct {
		source
		inner credential.Minter
	}
	target struct {
		process *Process
		inner   credential.Target
	}
	verifier struct {
		process *Process
		inner   credential.Verifier
	}
)

func (s store) Load(ctx context.Context) (doc *state.Document, err error) {
	err = s.process.call(Load, func() error { doc, err = s.inner.Load(ctx); return err })
	return doc, err
}

func (s store) Save(ctx context.Context, doc *state.Document) error {
	return s.process.call(Save, func() error { return s.inner.Save(ctx, doc) })
}

func (s source) Issue(ctx context.Context, req credential.Request) (login credential.Credential, err error) {
	err = s.process.call(Issue, func() error { login, err = s.inner.Issue(ctx, req); return err })
	return login, err
}

func (m minter) Issued(ctx context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	return func(yield func(credential.Issued, error) bool) {
		var list []credential.Issued
		err := m.process.call(Issued, func() error {
			for issued, err := range m.inner.Issued(ctx, mark) {
				if err != nil {
					return err
				}
				list = append(list, issued)
			}
			return nil
		})
		if err != nil {
			yield(credential.Issued{}, err)
			return
		}
		for _, issued := range list {
			if !yield(issued, nil) {
				return
			}
		}
	}
}

func (m minter) Revoke(ctx context.Context, id string) error {
	return m.process.call(Revoke, func() error { return m.inner.Revoke(ctx, id) })
}

func (t target) Places(ctx context.Context) (places []credential.Place, err error) {
	err = t.process.call(Places, func() error { places, err = t.inner.Places(ctx); return err })
	return places, err
}

func (t target) Held(ctx context.Context, at credential.Place, hosts []credential.Host) (held map[credential.Host]credential.Login, err error) {
	err = t.process.call(Held, func() error { held, err = t.inner.Held(ctx, at, hosts); return err })
	return held, err
}

func (t target) Deliver(ctx context.Context, at credential.Place, logins map[credential.Host]credential.Login) error {
	return t.process.call(Deliver, func() error { return t.inner.Deliver(ctx, at, logins) })
}

// recognizer is for targets that cannot be read; it counts as Held.
type recognizer struct {
	target
	sealed Sealed
}

// Sealed is the target as this process reaches it, its places not to be read.
func (p *Process) Sealed(inner *Target) credential.Recognizer {
	sealed := Sealed{Target: inner}
	return recognizer{target: target{process: p, inner: sealed}, sealed: sealed}
}

func (r recognizer) Recognize(ctx context.Context, at credential.Place, logins map[credential.Host][]credential.Login) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	err = r.process.call(Held, func() error { held, unknown, err = r.sealed.Recognize(ctx, at, logins); return err })
	return held, unknown, err
}

func (v verifier) Verify(ctx context.Context, login credential.Credential, probe string) (proof credential.Proof, err error) {
	err = v.process.call(Verify, func() error { proof, err = v.inner.Verify(ctx, login, probe); return err })
	return proof, err
}

func (v verifier) Check(ctx context.Context, login credential.Credential, proof credential.Proof) error {
	return v.process.call(Check, func() error { return v.inner.Check(ctx, login, proof) })
}
