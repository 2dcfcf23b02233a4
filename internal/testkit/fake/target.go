package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Target is a fake target: places in memory.
type Target struct {
	Calls
	mu     sync.Mutex
	places map[credential.Place]*place
	busy   int
	most   int
	writes map[credential.Place]int
}

type place struct {
	logins                   map[credential.Host]credential.Login
	unreachable, gone, lossy bool
}

var _ credential.Target = (*Target)(nil)

// NewTarget makes a target with places that hold nothing.
func NewTarget(places ...credential.Place) *Target {
	t := &Target{places: map[credential.Place]*place{}, writes: map[credential.Place]int{}}
	for _, p := range places {
		t.Add(p)
	}
	return t
}

// Places lists the places; see [credential.Target].
func (t *Target) Places(ctx context.Context) ([]credential.Place, error) {
	var list []credential.Place
	err := t.Calls.do(Places, func() error {
		list = t.All()
		return ctx.Err()
	})
	return list, err
}

// Held reads a place; see [credential.Target].
func (t *Target) Held(ctx context.Context, at credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	held := map[credential.Host]credential.Login{}
	err := t.Calls.do(Held, func() error {
		defer t.enter()()
		t.mu.Lock()
		defer t.mu.Unlock()
		p, err := t.reach(ctx, at)
		if err != nil {
			return err
		}
		for _, host := range hosts {
			if login, ok := p.logins[host]; ok {
				held[host] = login
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// Deliver writes into a place; see [credential.Target].
func (t *Target) Deliver(ctx context.Context, at credential.Place, logins map[credential.Host]credential.Login) error {
	return t.Calls.do(Deliver, func() error {
		defer t.enter()()
		t.mu.Lock()
		defer t.mu.Unlock()
		p, err := t.reach(ctx, at)
		if err != nil {
			return err
		}
		t.writes[at]++
		if !p.lossy {
			maps.Copy(p.logins, logins)
		}
		return nil
	})
}

// Add makes a place that holds nothing, unless it is there.
func (t *Target) Add(at credential.Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.places[at] == nil {
		t.places[at] = &place{logins: map[credential.Host]credential.Login{}}
	}
}

// Remove ends a place and what it holds.
func (t *Target) Remove(at credential.Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.places, at)
}

// Gone makes a place that is listed and does not exist any more.
func (t *Target) Gone(at credential.Place) { t.change(at, func(p *place) { p.gone = true }) }

// Unreachable makes a place that can be neither read nor written, or ends that.
func (t *Target) Unreachable(at credential.Place, unreachable bool) {
	t.change(at, func(p *place) { p.unreachable = unreachable })
}

// Lossy makes a place that forgets what is written to it, or ends that.
func (t *Target) Lossy(at credential.Place, lossy bool) {
	t.change(at, func(p *place) { p.lossy = lossy })
}

// Put writes as another program does, also where we cannot reach.
func (t *Target) Put(at credential.Place, host credential.Host, login credential.Login) {
	t.change(at, func(p *place) { p.logins[host] = login })
}

// Look reads what a place holds, also where we cannot reach.
func (t *Target) Look(at credential.Place, host credential.Host) (login credential.Login, ok bool) {
	t.change(at, func(p *place) { login, ok = p.logins[host] })
	return login, ok
}

// All lists the places.
func (t *Target) All() []credential.Place {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Keys(t.places))
}

// Writes is how often each place was delivered to.
func (t *Target) Writes() map[credential.Place]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.writes)
}

// Most is the largest number of reads and writes under way at once.
func (t *Target) Most() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.most
}

func (t *Target) change(at credential.Place, change func(*place)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.places[at]; p != nil {
		change(p)
	}
}

func (t *Target) enter() (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy++
	t.most = max(t.most, t.busy)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.busy--
	}
}

func (t *Target) reach(ctx context.Context, at credential.Place) (*place, error) {
	p := t.places[at]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case p == nil || p.gone:
		return nil, fmt.Errorf("fake place %s: %w", at, credential.ErrGone)
	case p.unreachable:
		return nil, problem.New(problem.Unreachable, "", "fake place %s does not answer", at)
	}
	return p, nil
}

// Sealed is a target whose places cannot be read: they tell only whether a login
// is one that they hold.
type Sealed struct{ *Target }

var _ credential.Recognizer = Sealed{}

// Held finds nothing; see [credential.Recognizer].
func (s Sealed) Held(context.Context, credential.Place, []credential.Host) (map[credential.Host]credential.Login, error) {
	return map[credential.Host]credential.Login{}, nil
}

// Recognize says which of the logins a place holds; see [credential.Recognizer].
func (s Sealed) Recognize(ctx context.Context, at credential.Place, logins map[credential.Host][]credential.Login) (
	held map[credential.Host]credential.Login, unknown []credential.Host, err error,
) {
	found, err := s.Target.Held(ctx, at, slices.Collect(maps.Keys(logins)))
	if err != nil {
		return nil, nil, err
	}
	held = map[credential.Host]credential.Login{}
	for host, login := range found {
		if slices.ContainsFunc(logins[host], login.Equal) {
			held[host] = login
		} else {
			unknown = append(unknown, host)
		}
	}
	return held, unknown, nil
}
