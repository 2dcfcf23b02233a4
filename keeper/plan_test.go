package keeper_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

var update = flag.Bool("update", false, "write the golden plans")

// noon is when the plans are made.
var noon = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

var errRefused = problem.Wrap(credential.ErrRefused, problem.Denied, "", "log in to %s", hostA)

func login(id string, issued time.Time) *state.Credential {
	return &state.Credential{
		Credential: credential.Credential{
			ID: id, Name: credential.MarkOf(instance, hostA).Name(id), Host: hostA, Username: "bot",
			Secret: credential.NewSecret("SECRET-" + id), Scopes: credential.ScopesOf(credential.Pull), Issued: issued,
		},
		Origin: "fake",
	}
}

func retired(id string) *state.Retired {
	return &state.Retired{Credential: *login(id, noon.Add(-1000*time.Hour)), Since: noon.Add(-2 * time.Hour)}
}

// scene is an observation in the making: one registry with a login in force,
// in one place.
type scene struct {
	keeper.Observation
	view  *keeper.View
	place *keeper.PlaceView
}

func newScene() *scene {
	s := &scene{view: &keeper.View{
		Host: hostA, Origin: "fake", Scopes: credential.ScopesOf(credential.Pull), Mints: true,
		Schedule: keeper.Schedule{Every: 720 * time.Hour, Overlap: time.Hour, Limit: 24 * time.Hour},
		Journal:  &state.Registry{Current: login("a2", noon.Add(-240*time.Hour))},
	}}
	s.place = &keeper.PlaceView{Target: "files", Place: "/one", Hosts: []credential.Host{hostA}}
	s.holds("a2")
	return s
}

// holds puts a login in the place.
func (s *scene) holds(id string) {
	s.place.Held = map[credential.Host]credential.Login{hostA: login(id, noon).Login()}
}

// given makes the source one that was told its login.
func (s *scene) given(id string) {
	s.view.Mints, s.view.Origin = false, "fixed"
	s.view.Journal.Current.Origin = "fixed"
	s.view.Given = login(id, time.Time{})
	s.view.Given.Origin = "fixed"
}

func (s *scene) retire(id string, change ...func(*state.Retired)) {
	r := retired(id)
	for _, c := range change {
		c(r)
	}
	s.view.Journal.Retired = append(s.view.Journal.Retired, r)
}

// lags adds something that depends on the place.
func (s *scene) lags(lag credential.Lag) {
	s.Lags = append(s.Lags, keeper.LagView{Target: "files", Hosts: []credential.Host{hostA}, Lag: lag})
}

var restart = credential.Lag{What: "deployment web/api", Remedy: "restart", After: "/one", Reason: "it may use a login that was replaced"}

var plans = []struct {
	name  string
	build func(*scene)
}{
	{"follows", func(s *scene) { s.lags(restart) }},
	{"follows-a-place-that-lags", func(s *scene) { s.lags(restart); s.holds("a1") }},
	{"follows-a-place-that-cannot-be-read", func(s *scene) { s.lags(restart); s.place.Err = errOdd }},
	{"follows-a-login-that-changes", func(s *scene) { s.lags(restart); s.view.Asked = true }},
	{"follows-a-login-that-is-refused", func(s *scene) {
		s.lags(restart)
		s.given("a2")
		s.view.Check = errRefused
	}},
	{"follows-later", func(s *scene) {
		s.lags(restart)
		s.Lags[0].Waits = "5 others are rolling"
	}},
	{"follows-again-later", func(s *scene) { s.lags(restart); s.Lags[0].Retry = noon.Add(time.Minute) }},
	{"follows-nothing", func(s *scene) {
		s.lags(credential.Lag{What: "secret old/pull", Remedy: "remove", Reason: "its namespace is not chosen any more"})
	}},
	{"what-follows-is-not-known", func(s *scene) {
		s.Lags = []keeper.LagView{{Target: "files", Hosts: []credential.Host{hostA}, Err: errOdd}}
	}},
	{"retired-where-it-cannot-be-told", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Left = noon.Add(-2 * time.Hour) })
		s.Lags = []keeper.LagView{{Target: "files", Hosts: []credential.Host{hostA}, Err: errOdd}}
	}},
	{"follows-before-any-login", func(s *scene) {
		s.lags(restart)
		s.given("a2")
		s.view.Given, s.view.GivenErr = nil, errOdd
		s.view.Journal = &state.Registry{}
		s.place.Held = nil
	}},
	{"retired-in-what-is-to-go", func(s *scene) {
		s.retire("a1")
		s.lags(credential.Lag{What: "secret old/pull", Remedy: "remove", Reason: "its namespace is not chosen any more", Holds: true})
	}},
	{"nothing-yet", func(s *scene) { s.view.Journal = &state.Registry{}; s.place.Held = nil }},
	{"in-force", func(*scene) {}},
	{"in-force-without-schedule", func(s *scene) { s.view.Schedule.Every = 0 }},
	{"due", func(s *scene) { s.view.Journal.Current.Issued = noon.Add(-721 * time.Hour) }},
	{"due-this-moment", func(s *scene) { s.view.Journal.Current.Issued = noon.Add(-720 * time.Hour) }},
	{"expires-soon", func(s *scene) { s.view.Journal.Current.Expires = noon.Add(time.Hour) }},
	{"asked", func(s *scene) { s.view.Asked = true }},
	{"refused", func(s *scene) { s.view.Check = errRefused }},
	{"registry-does-not-answer", func(s *scene) { s.view.Check = errOdd }},
	{"registry-does-not-answer-and-due", func(s *scene) {
		s.view.Check = errOdd
		s.view.Journal.Current.Issued = noon.Add(-721 * time.Hour)
	}},
	{"scopes-changed", func(s *scene) { s.view.Scopes = credential.ScopesOf(credential.Pull, credential.Push) }},
	{"source-changed", func(s *scene) { s.view.Origin = "another" }},
	{"terms-changed", func(s *scene) { s.view.Terms = "repositories team/*" }},
	{"clock-jumped-forward", func(s *scene) { s.Now = noon.Add(87600 * time.Hour) }},
	{"clock-jumped-backward", func(s *scene) { s.Now = noon.Add(-87600 * time.Hour) }},
	{"clock-a-little-behind", func(s *scene) { s.view.Journal.Current.Issued = noon.Add(time.Minute) }},
	{"open-intent", func(s *scene) { s.view.Journal.Intent = &state.Intent{Name: "asked-for", At: noon, Origin: "fake"} }},
	{"open-intent-first-run", func(s *scene) {
		s.view.Journal = &state.Registry{Intent: &state.Intent{Name: "asked-for", At: noon, Origin: "fake"}}
		s.place.Held = nil
	}},
	{"open-intent-backs-off", func(s *scene) {
		s.view.Journal.Intent = &state.Intent{Name: "asked-for", At: noon, Origin: "fake"}
		s.view.Retry = noon.Add(time.Minute)
	}},
	{"open-intent-at-another-source", func(s *scene) {
		s.view.Journal.Intent = &state.Intent{Name: "asked-for", At: noon, Origin: "before"}
	}},
	{"issued-not-verified", func(s *scene) { s.view.Journal.Next = login("a3", noon) }},
	{"issued-not-verified-and-asked", func(s *scene) { s.view.Journal.Next = login("a3", noon); s.view.Asked = true }},
	{"issued-not-verified-not-wanted", func(s *scene) {
		s.view.Journal.Next = login("a3", noon)
		s.view.Journal.Next.Terms = "other"
	}},
	{"issued-not-verified-other-source", func(s *scene) { s.given("a2"); s.view.Journal.Next = login("a3", noon) }},
	{"static-nothing-yet", func(s *scene) { s.given("a2"); s.view.Journal = &state.Registry{}; s.place.Held = nil }},
	{"static-same", func(s *scene) { s.given("a2") }},
	{"static-changed", func(s *scene) { s.given("a3") }},
	{"static-scopes-changed", func(s *scene) {
		s.given("a2")
		s.view.Scopes = credential.ScopesOf(credential.Pull, credential.Push)
	}},
	{"static-fails", func(s *scene) { s.given("a2"); s.view.Given, s.view.GivenErr = nil, errOdd }},
	{"static-fails-nothing-yet", func(s *scene) {
		s.given("a2")
		s.view.Given, s.view.GivenErr, s.view.Journal, s.place.Held = nil, errOdd, &state.Registry{}, nil
	}},
	{"static-refused", func(s *scene) { s.given("a2"); s.view.Check = errRefused }},
	{"static-refused-place-foreign", func(s *scene) { s.given("a2"); s.view.Check = errRefused; s.holds("elsewhere") }},
	{"static-not-asked", func(s *scene) { s.given("a2"); s.view.Given = nil }},
	{"place-empty", func(s *scene) { s.place.Held = nil }},
	{"place-foreign", func(s *scene) { s.holds("elsewhere") }},
	{"place-untold", func(s *scene) { s.place.Held, s.place.Unknown = nil, []credential.Host{hostA} }},
	{"place-replaced", func(s *scene) { s.holds("a1"); s.retire("a1") }},
	{"place-unreadable", func(s *scene) { s.place.Held, s.place.Err = nil, errOdd }},
	{"place-unlistable", func(s *scene) { s.place.Place, s.place.Held, s.place.Err = "", nil, errOdd }},
	{"place-gone", func(s *scene) {
		s.place.Held, s.place.Err = nil, fmt.Errorf("read: %w", credential.ErrGone)
		s.retire("a1")
	}},
	{"place-for-another-registry", func(s *scene) { s.place.Hosts = []credential.Host{hostB}; s.retire("a1") }},
	{"place-backs-off", func(s *scene) { s.place.Held = nil; s.place.Retry = noon.Add(time.Minute) }},
	{"place-not-given-a-refused-login", func(s *scene) {
		s.view.Check, s.view.Retry = errRefused, noon.Add(time.Minute)
		s.holds("a1")
		s.retire("a1")
	}},
	{"source-backs-off", func(s *scene) { s.view.Asked = true; s.view.Retry = noon.Add(time.Minute) }},
	{"source-may-be-asked-again", func(s *scene) { s.view.Asked = true; s.view.Retry = noon }},
	{"retired-held", func(s *scene) { s.holds("a1"); s.retire("a1") }},
	{"retired-untold", func(s *scene) { s.place.Held, s.place.Unknown = nil, []credential.Host{hostA}; s.retire("a1") }},
	{"retired-maybe-held", func(s *scene) { s.place.Held, s.place.Err = nil, errOdd; s.retire("a1") }},
	{"retired-maybe-held-unlistable", func(s *scene) {
		s.place.Place, s.place.Held, s.place.Err = "", nil, errOdd
		s.retire("a1")
	}},
	{"retired-left", func(s *scene) { s.retire("a1") }},
	{"retired-overlap-runs", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Left = noon.Add(-time.Minute) })
	}},
	{"retired-overlap-passed", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Left = noon.Add(-time.Hour) })
	}},
	{"retired-overlap-passed-backs-off", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Left = noon.Add(-time.Hour) })
		s.view.Retry = noon.Add(time.Minute)
	}},
	{"retired-limit-passed", func(s *scene) {
		s.place.Held, s.place.Err = nil, errOdd
		s.retire("a1", func(r *state.Retired) { r.Since = noon.Add(-24 * time.Hour) })
	}},
	{"retired-without-limit", func(s *scene) {
		s.view.Schedule.Limit = 0
		s.holds("a1")
		s.retire("a1", func(r *state.Retired) { r.Since = noon.Add(-87600 * time.Hour) })
	}},
	{"retired-came-back", func(s *scene) {
		s.holds("a1")
		s.retire("a1", func(r *state.Retired) { r.Left = noon.Add(-time.Minute) })
	}},
	{"retired-left-in-the-future", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Left = noon.Add(87600 * time.Hour) })
	}},
	{"retired-expired", func(s *scene) {
		s.holds("a1")
		s.retire("a1", func(r *state.Retired) { r.Expires = noon.Add(-time.Second) })
	}},
	{"retired-of-another-source", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Origin = "another" })
	}},
	{"retired-of-another-source-expired", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Origin, r.Expires = "another", noon.Add(-time.Second) })
	}},
	{"retired-found-at-the-source", func(s *scene) {
		s.holds("elsewhere")
		s.retire("a1", func(r *state.Retired) { r.Username, r.Secret = "", credential.Secret{} })
	}},
	{"retired-found-at-the-source-left", func(s *scene) {
		s.retire("a1", func(r *state.Retired) { r.Username, r.Secret = "", credential.Secret{} })
	}},
	{"two-registries-in-one-place", func(s *scene) {
		other := keeper.View{
			Host: hostB, Origin: "fake", Scopes: s.view.Scopes, Mints: true, Schedule: s.view.Schedule, Journal: &state.Registry{},
		}
		s.Registries = append(s.Registries, other)
		s.place.Hosts = append(s.place.Hosts, hostB)
	}},
}

// TestPlans holds the plan for each observation, with its reasons, against
// testdata. Run with -update to write them anew.
func TestPlans(t *testing.T) {
	for _, test := range plans {
		t.Run(test.name, func(t *testing.T) {
			s := newScene()
			s.Now = noon
			test.build(s)
			s.Registries = append([]keeper.View{*s.view}, s.Registries...)
			s.Places = append([]keeper.PlaceView{*s.place}, s.Places...)
			plan := keeper.Decide(s.Observation)
			var b strings.Builder
			for _, step := range plan.Steps {
				fmt.Fprintln(&b, step)
			}
			next := "nothing"
			if at := plan.Next(); !at.IsZero() {
				next = at.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(&b, "-- %d changes, next: %s\n", len(plan.Changes()), next)
			if strings.Contains(b.String(), "SECRET") {
				t.Fatalf("the plan holds a secret: %s", b.String())
			}
			path := filepath.Join("testdata", "plans", test.name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			// The same observation makes the same plan.
			if diff := cmp.Diff(plan.Steps, keeper.Decide(s.Observation).Steps); diff != "" {
				t.Errorf("second plan (-first +second):\n%s", diff)
			}
		})
	}
}

// TestNoGoldenLeftOver sees that each golden plan has its observation.
func TestNoGoldenLeftOver(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "plans", "*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(plans) {
		t.Errorf("%d golden plans for %d observations", len(files), len(plans))
	}
}
