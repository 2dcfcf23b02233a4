package daemon

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

// Condition is one thing that can be well or not.
type Condition struct {
	// Code names the condition: pass, registry, target, or lease.
	Code string `json:"code"`
	// On is what the condition is of: a host, or a target and place.
	On string `json:"on,omitempty"`
	OK bool   `json:"ok"`
	// Text and Hint say what is wrong.
	Text string `json:"text,omitempty"`
	Hint string `json:"hint,omitempty"`
}

// health is what the last pass left, and what was tended since.
type health struct {
	mu     sync.Mutex
	status keeper.Status
	err    error
	at     time.Time
	// began is when the setup came in force.
	began time.Time
	// blind says that the pass failed before it knew how anything stands.
	blind bool
}

// note keeps how a pass ended. news says whether it failed in another way than
// the one before.
func (h *health) note(status keeper.Status, err error, at time.Time) (news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	news = err != nil && (h.err == nil || h.err.Error() != err.Error())
	status.Targets = slices.Clone(status.Targets)
	h.status, h.err, h.at, h.blind = status, err, at, err != nil && len(status.Registries) == 0
	return news
}

// place takes up how a place stands since the pass; known is false for one that
// is gone.
func (h *health) place(at spot, row keeper.PlaceStatus, known bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.status.Targets, func(t keeper.PlaceStatus) bool { return t.Name == at.target && t.Path == string(at.place) })
	switch {
	case known && i < 0:
		h.status.Targets = append(h.status.Targets, row)
	case known:
		h.status.Targets[i] = row
	case i >= 0:
		h.status.Targets = slices.Delete(h.status.Targets, i, i+1)
	}
	h.status.Ready = !h.blind &&
		!slices.ContainsFunc(h.status.Registries, func(r keeper.RegistryStatus) bool { return r.Phase != keeper.OK }) &&
		!slices.ContainsFunc(h.status.Targets, func(t keeper.PlaceStatus) bool { return t.Phase != keeper.OK })
}

// conditions lists how things stand.
func (h *health) conditions() (ready bool, list []Condition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() {
		return false, []Condition{{Code: "pass", Text: "the first pass is under way"}}
	}
	pass := Condition{Code: "pass", OK: h.err == nil}
	if h.err != nil {
		pass.Text, pass.Hint = h.err.Error(), problem.HintOf(h.err)
	}
	list = append(list, pass)
	for _, r := range h.status.Registries {
		list = append(list, Condition{Code: "registry", On: string(r.Host), OK: r.Phase == keeper.OK, Text: r.Problem, Hint: r.Hint})
	}
	for _, t := range h.status.Targets {
		list = append(list, Condition{Code: "target", On: t.Name + " " + t.Path, OK: t.Phase == keeper.OK, Text: t.Problem, Hint: t.Hint})
	}
	return h.status.Ready, list
}

// stuck is how many resyncs may pass without a pass before the daemon counts
// as hung, and stuckAtLeast the least time.
const (
	stuck        = 5
	stuckAtLeast = 10 * time.Minute
)

// Health serves /healthz, /readyz and /metrics. /healthz answers 200 while
// passes are made, whatever comes of them; /readyz answers 200 while every
// registry and place is in order, and 503 with the conditions otherwise.
func (d *Daemon) Health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s := d.current()
		last, limit := s.health.last(), max(s.Resync*stuck, stuckAtLeast)
		condition := Condition{Code: "pass", OK: last.IsZero() || time.Since(last) < limit}
		if !condition.OK {
			condition.Text = "no pass has ended since " + last.UTC().Format(time.RFC3339)
		}
		answer(w, condition.OK, []Condition{condition})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if d.standing() {
			answer(w, true, []Condition{{Code: "lease", OK: true, Text: "another leads; this one stands by"}})
			return
		}
		ready, list := d.current().health.conditions()
		answer(w, ready, list)
	})
	if d.config.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(d.config.Metrics.registry, promhttp.HandlerOpts{}))
	}
	return mux
}

func (h *health) last() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() {
		return h.began
	}
	return h.at
}

func answer(w http.ResponseWriter, ok bool, list []Condition) {
	status := http.StatusOK
	if !ok {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, map[string]any{"ok": ok, "conditions": list})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone away is no concern of the server's.
	_ = json.NewEncoder(w).Encode(value)
}

// Outcome is what the control socket answers an order with.
type Outcome struct {
	Result  *keeper.Result `json:"result,omitempty"`
	Problem string         `json:"problem,omitempty"`
	Hint    string         `json:"hint,omitempty"`
	Kind    problem.Kind   `json:"kind,omitempty"`
}

// Control serves the orders that the command line gives a running daemon: GET
// /status, and POST /sync with any number of rotate=HOST, or all for all. It belongs on a
// socket that only the daemon's user can open.
func (d *Daemon) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		status, err := d.Status(r.Context())
		if err != nil {
			writeJSON(w, problem.KindOf(err).HTTPStatus(), outcome(nil, err))
			return
		}
		writeJSON(w, http.StatusOK, status)
	})
	mux.HandleFunc("POST /sync", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		rotate := keeper.Rotate{All: query.Has("all")}
		for _, text := range query["rotate"] {
			rotate.Hosts = append(rotate.Hosts, credential.Host(text))
		}
		result, err := d.Sync(r.Context(), rotate)
		status := http.StatusOK
		if err != nil {
			status = problem.KindOf(err).HTTPStatus()
		}
		writeJSON(w, status, outcome(&result, err))
	})
	return mux
}

func outcome(result *keeper.Result, err error) Outcome {
	o := Outcome{Result: result}
	if err != nil {
		o.Problem, o.Hint, o.Kind = err.Error(), problem.HintOf(err), problem.KindOf(err)
	}
	return o
}
