package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/regkeeper/regkeeper/keeper"
)

// Metrics are the daemon's Prometheus metrics. A nil *Metrics counts nothing.
type Metrics struct {
	registry *prometheus.Registry

	ready, expiration, renewal *prometheus.GaugeVec
	placeReady, places         *prometheus.GaugeVec
	steps                      *prometheus.CounterVec
	deliveries, verifications  *prometheus.CounterVec
	passes                     *prometheus.HistogramVec
	reloads                    *prometheus.CounterVec
	jobs                       *prometheus.HistogramVec
	jobDone                    *prometheus.GaugeVec
}

// NewMetrics makes the metrics, with those of the process and the Go runtime.
func NewMetrics(version string) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "regkeeper", Name: name, Help: help}, labels)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "regkeeper", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		registry:      prometheus.NewRegistry(),
		ready:         gauge("credential_ready_status", "Whether a login is in force and, unless verify is off, accepted (1) or not (0).", "registry"),
		expiration:    gauge("credential_expiration_timestamp_seconds", "When the login in force ends by itself; 0 for never.", "registry"),
		renewal:       gauge("credential_renewal_timestamp_seconds", "When the login in force is due to be replaced; 0 for never.", "registry"),
		placeReady:    gauge("place_ready_status", "Whether a file holds the logins in force (1) or not (0).", "target", "place"),
		places:        gauge("places", "Places of a target, by phase.", "target", "phase"),
		steps:         counter("step_total", "Steps taken, by action and result.", "action", "registry", "result"),
		deliveries:    counter("delivery_total", "Deliveries to places, by result.", "target", "result"),
		verifications: counter("verify_total", "Attempts to get a login verified and put in force, by result.", "registry", "result"),
		passes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "regkeeper", Name: "sync_duration_seconds", Help: "How long passes took, by result.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 8),
		}, []string{"result"}),
		jobs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "regkeeper", Name: "job_duration_seconds", Help: "How long jobs such as pruning took, by result.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 9),
		}, []string{"job", "result"}),
		jobDone: gauge("job_last_success_timestamp_seconds", "When a job last ended well.", "job"),
		reloads: counter("config_reload_total", "Reloads of the configuration, by result.", "result"),
	}
	build := gauge("build_info", "The version that runs; always 1.", "version")
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.ready, m.expiration, m.renewal, m.placeReady, m.places, m.steps, m.deliveries, m.verifications,
		m.passes, m.reloads, m.jobs, m.jobDone, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "success"
}

func (m *Metrics) reloaded(ok bool) {
	if m == nil {
		return
	}
	if ok {
		m.reloads.WithLabelValues("success").Inc()
		return
	}
	m.reloads.WithLabelValues("error").Inc()
}

func (m *Metrics) worked(job string, took time.Duration, err error) {
	if m == nil {
		return
	}
	m.jobs.WithLabelValues(job, result(err)).Observe(took.Seconds())
	if err == nil {
		m.jobDone.WithLabelValues(job).SetToCurrentTime()
	}
}

func (m *Metrics) passed(took time.Duration, err error) {
	if m == nil {
		return
	}
	m.passes.WithLabelValues(result(err)).Observe(took.Seconds())
}

func (m *Metrics) step(event keeper.Event) {
	if m == nil {
		return
	}
	step := event.Step
	m.steps.WithLabelValues(string(step.Action), string(step.Host), result(event.Err)).Inc()
	switch step.Action {
	case keeper.Deliver:
		m.deliveries.WithLabelValues(step.Target, result(event.Err)).Inc()
	case keeper.Mint, keeper.Adopt, keeper.Verify:
		m.verifications.WithLabelValues(string(step.Host), result(event.Err)).Inc()
	}
}

// status sets the gauges to how things stand; what is not kept any more goes.
func (m *Metrics) status(status keeper.Status) {
	if m == nil {
		return
	}
	for _, gauge := range []*prometheus.GaugeVec{m.ready, m.expiration, m.renewal, m.placeReady, m.places} {
		gauge.Reset()
	}
	for _, r := range status.Registries {
		host := string(r.Host)
		m.ready.WithLabelValues(host).Set(truth(r.Phase == keeper.OK))
		m.expiration.WithLabelValues(host).Set(seconds(r.Expires))
		m.renewal.WithLabelValues(host).Set(seconds(r.NextRotation))
	}
	for _, t := range status.Targets {
		m.places.WithLabelValues(t.Name, string(t.Phase)).Inc()
		// A cluster has thousands of places, and pods come and go: a series for
		// each would outgrow what is measured.
		if t.Kind == "file" {
			m.placeReady.WithLabelValues(t.Name, t.Path).Set(truth(t.Phase == keeper.OK))
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t *time.Time) float64 {
	if t == nil {
		return 0
	}
	return float64(t.Unix())
}
