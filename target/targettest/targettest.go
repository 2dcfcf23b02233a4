// Package targettest holds every target to the promises of the port
// [credential.Target]. It owns the tests alone, and refuses to know any target.
package targettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
)

// Harness is a target under test.
type Harness struct {
	// New makes the target anew, with at least one place; with two or more,
	// delivering to several at a time is tested too. No place holds a login.
	New func(t testing.TB) credential.Target
	// Put has another program put a login into a place, beside what is there.
	// Nil skips what needs it.
	Put func(t testing.TB, place credential.Place, host credential.Host, login credential.Login)
	// Raw is the content of a place as its readers find it, nil if there is
	// none. Nil skips what needs it.
	Raw func(t testing.TB, place credential.Place) []byte
	// Whole fails if a content is only a part of one. It goes with Raw.
	Whole func(content []byte) error
	// Remove takes a place away. Nil skips what needs it.
	Remove func(t testing.TB, place credential.Place)
	// Again makes another target of the same places, as a process does that takes
	// the work over. Nil skips what needs it.
	Again func(t testing.TB) credential.Target
	// One says that the places take the login of [Host] alone.
	One bool
}

// Host is the registry whose login places take that take one only.
const Host = hostA

const (
	hostA credential.Host = "a.registry.example"
	hostB credential.Host = "b.registry.example:5000"
)

// Run tests the target. One that is a [credential.Recognizer] keeps its promises
// as far as recognizing can tell: instead of what a place holds, it is asked which
// of all logins that were delivered in the test it holds.
func Run(t *testing.T, h Harness) {
	t.Run("PlacesAreStable", h.placesAreStable)
	t.Run("PlacesAreStableThroughDelivery", h.placesAreStableThroughDelivery)
	t.Run("EmptyPlaceHoldsNothing", h.emptyPlaceHoldsNothing)
	t.Run("HeldIsWhatWasDelivered", h.heldIsWhatWasDelivered)
	t.Run("SecretsComeBackByteForByte", h.secretsComeBack)
	t.Run("DeliverReplaces", h.deliverReplaces)
	t.Run("DeliverTwice", h.deliverTwice)
	t.Run("DeliverNothing", h.deliverNothing)
	t.Run("OtherHostsAreKept", h.otherHostsAreKept)
	t.Run("OtherPlacesAreKept", h.otherPlacesAreKept)
	t.Run("DifferentPlacesAtTheSameTime", h.differentPlaces)
	t.Run("ReadersFindWholeContent", h.readersFindWholeContent)
	t.Run("GonePlace", h.gonePlace)
	t.Run("ContextEnds", h.contextEnds)
	t.Run("AnotherTargetFindsWhatWasDelivered", h.anotherTarget)
	t.Run("RecognizesWhatWasDelivered", h.recognizes)
}

func (h Harness) target(t *testing.T) (credential.Target, []credential.Place) {
	t.Helper()
	target := h.told(h.New(t))
	places := h.places(t, target)
	if len(places) == 0 {
		t.Fatal("the harness's target has no place")
	}
	return target, places
}

func (h Harness) places(t *testing.T, target credential.Target) []credential.Place {
	t.Helper()
	places, err := target.Places(t.Context())
	if err != nil {
		t.Fatalf("Places: %v", err)
	}
	return places
}

// told is the target as the tests use it: one that recognizes tells what it
// holds, and one that takes the login of one host is given no other.
func (h Harness) told(target credential.Target) credential.Target {
	if r, ok := target.(credential.Recognizer); ok {
		target = &reader{Recognizer: r, delivered: map[credential.Host][]credential.Login{}}
	}
	if h.One {
		target = single{target}
	}
	return target
}

// reader reads places by recognizing, among all logins that it delivered, what
// they hold.
type reader struct {
	credential.Recognizer
	mu        sync.Mutex
	delivered map[credential.Host][]credential.Login
}

// unrecognized stands for a login that is none of those delivered.
var unrecognized = login("(unknown)", "(unknown)")

func (r *reader) Deliver(ctx context.Context, place credential.Place, l logins) error {
	r.mu.Lock()
	for host, login := range l {
		if !slices.ContainsFunc(r.delivered[host], login.Equal) {
			r.delivered[host] = append(r.delivered[host], login)
		}
	}
	r.mu.Unlock()
	return r.Recognizer.Deliver(ctx, place, l)
}

func (r *reader) Held(ctx context.Context, place credential.Place, hosts []credential.Host) (logins, error) {
	candidates := map[credential.Host][]credential.Login{}
	r.mu.Lock()
	for _, host := range hosts {
		candidates[host] = slices.Clone(r.delivered[host])
	}
	r.mu.Unlock()
	held, unknown, err := r.Recognize(ctx, place, candidates)
	if err != nil {
		return nil, err
	}
	for host := range held {
		if _, asked := candidates[host]; !asked || slices.Contains(unknown, host) {
			return nil, fmt.Errorf("recognized the login of %s, which nobody asked for, or which is unknown", host)
		}
	}
	for _, host := range unknown {
		if _, asked := candidates[host]; asked {
			held[host] = unrecognized
		}
	}
	return held, nil
}

// single is a target of places that take the login of one host.
type single struct{ credential.Target }

func only(l logins) logins {
	one := logins{}
	if login, ok := l[Host]; ok {
		one[Host] = login
	}
	return one
}

func (s single) Deliver(ctx context.Context, place credential.Place, l logins) error {
	return s.Target.Deliver(ctx, place, only(l))
}

type logins = map[credential.Host]credential.Login

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

func deliver(t *testing.T, target credential.Target, place credential.Place, l logins) {
	t.Helper()
	if err := target.Deliver(t.Context(), place, l); err != nil {
		t.Fatalf("Deliver to %s: %v", place, err)
	}
}

// holds compares what the place holds for the two hosts of these tests, and
// for a third.
func holds(t *testing.T, target credential.Target, place credential.Place, want logins, others ...credential.Host) {
	t.Helper()
	got, err := target.Held(t.Context(), place, append([]credential.Host{hostA, hostB, "none.registry.example"}, others...))
	if err != nil {
		t.Fatalf("Held of %s: %v", place, err)
	}
	if _, one := target.(single); one {
		want = only(want)
	}
	if diff := cmp.Diff(plain(want), plain(got)); diff != "" {
		t.Errorf("%s holds (-want +got):\n%s", place, diff)
	}
}

func plain(l logins) map[string]string {
	m := map[string]string{}
	for host, login := range l {
		m[string(host)] = login.Username + ":" + login.Secret.Reveal()
	}
	return m
}

func (h Harness) placesAreStable(t *testing.T) {
	target, first := h.target(t)
	for range 5 {
		if diff := cmp.Diff(first, h.places(t, target)); diff != "" {
			t.Errorf("places (-first +later):\n%s", diff)
		}
	}
	unique := slices.Clone(first)
	slices.Sort(unique)
	if len(slices.Compact(unique)) != len(first) {
		t.Errorf("a place is listed twice: %v", first)
	}
}

func (h Harness) placesAreStableThroughDelivery(t *testing.T) {
	target, first := h.target(t)
	for _, place := range first {
		deliver(t, target, place, logins{hostA: login("u", "p")})
		if diff := cmp.Diff(first, h.places(t, target)); diff != "" {
			t.Errorf("places after delivery to %s (-first +later):\n%s", place, diff)
		}
	}
}

func (h Harness) emptyPlaceHoldsNothing(t *testing.T) {
	target, places := h.target(t)
	for _, place := range places {
		holds(t, target, place, nil)
	}
	got, err := target.Held(t.Context(), places[0], nil)
	if err != nil || len(got) != 0 {
		t.Errorf("Held for no hosts is %v, %v", got, err)
	}
}

func (h Harness) heldIsWhatWasDelivered(t *testing.T) {
	target, places := h.target(t)
	want := logins{hostA: login("u", "p"), hostB: login("v", "q"), credential.DockerHub: login("hub", "r")}
	deliver(t, target, places[0], want)
	holds(t, target, places[0], want, credential.DockerHub)
	got, err := target.Held(t.Context(), places[0], []credential.Host{hostB})
	if err != nil {
		t.Fatal(err)
	}
	if h.One {
		delete(want, hostB)
	}
	b := logins{}
	if l, ok := want[hostB]; ok {
		b[hostB] = l
	}
	if diff := cmp.Diff(plain(b), plain(got)); diff != "" {
		t.Errorf("held for one host (-want +got):\n%s", diff)
	}
}

func (h Harness) secretsComeBack(t *testing.T) {
	target, places := h.target(t)
	for _, secret := range []string{
		"a:b:c", " leading and trailing ", `"quoted\"`, "<&>'", "$HOME `id` $(id)", "%s%d", "ünïcödé 😀", "tab\there", strings.Repeat("x", 4096), "-n", "\\n",
	} {
		want := logins{hostA: login("robot$regkeeper", secret)}
		deliver(t, target, places[0], want)
		holds(t, target, places[0], want)
	}
}

func (h Harness) deliverReplaces(t *testing.T) {
	target, places := h.target(t)
	deliver(t, target, places[0], logins{hostA: login("old", "old"), hostB: login("v", "q")})
	deliver(t, target, places[0], logins{hostA: login("new", "new")})
	holds(t, target, places[0], logins{hostA: login("new", "new"), hostB: login("v", "q")})
}

func (h Harness) deliverTwice(t *testing.T) {
	target, places := h.target(t)
	want := logins{hostA: login("u", "p"), hostB: login("v", "q")}
	deliver(t, target, places[0], want)
	var before []byte
	if h.Raw != nil {
		before = h.Raw(t, places[0])
	}
	for range 3 {
		deliver(t, target, places[0], want)
	}
	holds(t, target, places[0], want)
	if h.Raw != nil {
		if after := h.Raw(t, places[0]); !bytes.Equal(before, after) {
			t.Errorf("delivering the same again changes the place:\n%s", cmp.Diff(string(before), string(after)))
		}
	}
}

func (h Harness) deliverNothing(t *testing.T) {
	target, places := h.target(t)
	deliver(t, target, places[0], nil)
	holds(t, target, places[0], nil)
	deliver(t, target, places[0], logins{hostA: login("u", "p")})
	deliver(t, target, places[0], logins{})
	holds(t, target, places[0], logins{hostA: login("u", "p")})
}

func (h Harness) otherHostsAreKept(t *testing.T) {
	if h.Put == nil {
		t.Skip("the harness has no Put")
	}
	const foreign credential.Host = "foreign.example"
	target, places := h.target(t)
	h.Put(t, places[0], foreign, login("someone", "else"))
	deliver(t, target, places[0], logins{hostA: login("u", "p")})
	holds(t, target, places[0], logins{hostA: login("u", "p"), foreign: login("someone", "else")}, foreign)
	h.Put(t, places[0], "later.example", login("later", "on"))
	deliver(t, target, places[0], logins{hostA: login("u", "p2"), hostB: login("v", "q")})
	holds(t, target, places[0], logins{hostA: login("u", "p2"), hostB: login("v", "q"), foreign: login("someone", "else"), "later.example": login("later", "on")},
		foreign, "later.example")
	// A host that is ours by now may have had a login before.
	h.Put(t, places[0], hostA, login("someone", "else"))
	deliver(t, target, places[0], logins{hostA: login("u", "p3")})
	holds(t, target, places[0], logins{hostA: login("u", "p3"), hostB: login("v", "q")})
}

func (h Harness) otherPlacesAreKept(t *testing.T) {
	target, places := h.target(t)
	if len(places) < 2 {
		t.Skip("the harness's target has one place")
	}
	deliver(t, target, places[0], logins{hostA: login("u", "p")})
	holds(t, target, places[1], nil)
	deliver(t, target, places[1], logins{hostA: login("v", "q")})
	holds(t, target, places[0], logins{hostA: login("u", "p")})
}

func (h Harness) differentPlaces(t *testing.T) {
	target, places := h.target(t)
	if len(places) < 2 {
		t.Skip("the harness's target has one place")
	}
	const rounds = 10
	var all sync.WaitGroup
	for i, place := range places {
		all.Go(func() {
			for round := range rounds {
				want := login(fmt.Sprint("user-", i), fmt.Sprint("secret-", round))
				if err := target.Deliver(t.Context(), place, logins{hostA: want}); err != nil {
					t.Errorf("Deliver to %s: %v", place, err)
				}
				got, err := target.Held(t.Context(), place, []credential.Host{hostA})
				if err != nil || !got[hostA].Equal(want) {
					t.Errorf("%s holds %v, %v after delivery %d", place, plain(got), err, round)
				}
				if _, err := target.Places(t.Context()); err != nil {
					t.Errorf("Places: %v", err)
				}
			}
		})
	}
	all.Wait()
	for i, place := range places {
		holds(t, target, place, logins{hostA: login(fmt.Sprint("user-", i), fmt.Sprint("secret-", rounds-1))})
	}
}

func (h Harness) readersFindWholeContent(t *testing.T) {
	if h.Raw == nil || h.Whole == nil {
		t.Skip("the harness has no Raw and Whole")
	}
	target, places := h.target(t)
	deliver(t, target, places[0], logins{hostA: login("u", "p"), hostB: login("v", "q")})
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			content := h.Raw(t, places[0])
			if len(content) == 0 {
				t.Error("a reader finds nothing")
				return
			}
			if err := h.Whole(content); err != nil {
				t.Errorf("a reader finds %q: %v", content, err)
				return
			}
		}
	})
	for i := range 20 {
		deliver(t, target, places[0], logins{hostA: login("u", strings.Repeat("p", 1+i*500))})
	}
	close(stop)
	reader.Wait()
}

// gonePlace allows for two answers: the place is gone, or it is one that can be
// made anew.
func (h Harness) gonePlace(t *testing.T) {
	if h.Remove == nil {
		t.Skip("the harness has no Remove")
	}
	target, places := h.target(t)
	deliver(t, target, places[0], logins{hostA: login("u", "p")})
	h.Remove(t, places[0])
	got, err := target.Held(t.Context(), places[0], []credential.Host{hostA})
	if err != nil && !errors.Is(err, credential.ErrGone) {
		t.Errorf("Held: %v, which is not ErrGone", err)
	}
	if len(got) != 0 {
		t.Errorf("a place that is gone holds %v", plain(got))
	}
	err = target.Deliver(t.Context(), places[0], logins{hostA: login("u", "p2")})
	if errors.Is(err, credential.ErrGone) {
		return
	}
	if err != nil {
		t.Fatalf("Deliver: %v, which is not ErrGone", err)
	}
	holds(t, target, places[0], logins{hostA: login("u", "p2")})
}

func (h Harness) contextEnds(t *testing.T) {
	target, places := h.target(t)
	deliver(t, target, places[0], logins{hostA: login("u", "p")})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := target.Deliver(ctx, places[0], logins{hostA: login("u", "p2")})
	want := login("u", "p")
	if err == nil {
		want = login("u", "p2")
	}
	holds(t, target, places[0], logins{hostA: want})
	// What comes next is as before.
	deliver(t, target, places[0], logins{hostA: login("u", "p3")})
	holds(t, target, places[0], logins{hostA: login("u", "p3")})
}

// anotherTarget has the work taken over: nothing is lost with the process that
// did it.
func (h Harness) anotherTarget(t *testing.T) {
	if h.Again == nil {
		t.Skip("the harness has no Again")
	}
	first, places := h.target(t)
	before := logins{hostA: login("u", "p"), hostB: login("v", "q")}
	deliver(t, first, places[0], before)
	second := h.Again(t)
	if recognizer, ok := second.(credential.Recognizer); ok {
		// It is told which logins there are, as it is in the product.
		r := &reader{Recognizer: recognizer, delivered: map[credential.Host][]credential.Login{hostA: {before[hostA]}, hostB: {before[hostB]}}}
		second = r
	}
	if h.One {
		second = single{second}
	}
	if diff := cmp.Diff(places, h.places(t, second)); diff != "" {
		t.Errorf("places of another target (-want +got):\n%s", diff)
	}
	holds(t, second, places[0], before)
	deliver(t, second, places[0], logins{hostA: login("u", "p2")})
	holds(t, second, places[0], logins{hostA: login("u", "p2"), hostB: login("v", "q")})
}

// recognizes is about what a Recognizer is asked beside what was delivered.
func (h Harness) recognizes(t *testing.T) {
	target, ok := h.New(t).(credential.Recognizer)
	if !ok {
		t.Skip("the target reads its places")
	}
	places, err := target.Places(t.Context())
	if err != nil || len(places) == 0 {
		t.Fatalf("Places: %v, %v", places, err)
	}
	place := places[0]
	want := func(when string, asked map[credential.Host][]credential.Login, wantHeld logins, wantUnknown ...credential.Host) {
		t.Helper()
		held, unknown, err := target.Recognize(t.Context(), place, asked)
		if err != nil {
			t.Fatalf("%s: Recognize: %v", when, err)
		}
		slices.Sort(unknown)
		if diff := cmp.Diff(plain(wantHeld), plain(held)); diff != "" {
			t.Errorf("%s: %s holds (-want +got):\n%s", when, place, diff)
		}
		if !slices.Equal(wantUnknown, unknown) {
			t.Errorf("%s: unknown are %v, want %v", when, unknown, wantUnknown)
		}
	}
	right, other := login("u", "p"), login("u", "other")
	asked := map[credential.Host][]credential.Login{hostA: {other, right}}
	want("before the delivery", asked, nil)
	if err := target.Deliver(t.Context(), place, logins{hostA: right}); err != nil {
		t.Fatal(err)
	}
	want("among others", asked, logins{hostA: right})
	want("alone", map[credential.Host][]credential.Login{hostA: {right}}, logins{hostA: right})
	want("with another host", map[credential.Host][]credential.Login{hostA: {right}, hostB: {right}}, logins{hostA: right})
	want("with the login of another host", map[credential.Host][]credential.Login{hostB: {right}}, nil)
	want("without any", map[credential.Host][]credential.Login{hostA: nil}, nil, hostA)
	want("with others only", map[credential.Host][]credential.Login{hostA: {other, login("up", ""), login("", "up"), login("p", "u")}}, nil, hostA)
	want("of no host", nil, nil)
	if held, err := target.Held(t.Context(), place, []credential.Host{hostA}); err != nil || len(held) > 0 {
		t.Errorf("Held tells %v, %v, which nobody can read", plain(held), err)
	}
}
