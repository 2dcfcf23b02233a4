package trial

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// kept are the headers that tell something.
var kept = []string{
	"Content-Type", "Date", "Docker-Content-Digest", "Docker-Distribution-Api-Version", "Docker-Ratelimit-Source", "Proxy-Authenticate",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Retry-After", "Server", "Via", "Www-Authenticate",
}

// send sends one request with the login as it is to be shown, and records what
// happened on the way and what came back. The body is that of a token, or the
// beginning of an error's.
func (a *attempt) send(ctx context.Context, stage Stage, method string, place *url.URL, form url.Values) (Step, []byte) {
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	step := Step{Stage: stage, Asked: method + " " + bare(place), As: a.as}
	if scope := place.Query().Get("scope"); scope != "" {
		step.Asked += " for " + scope
	}
	var content io.Reader
	if form != nil {
		content = strings.NewReader(form.Encode())
	}
	way := &way{}
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, way.trace()), method, place.String(), content)
	if err != nil {
		step.Fault = &Fault{Kind: Other, Host: place.Host, Text: a.hide.text(err.Error())}
		a.record(step)
		return step, nil
	}
	switch {
	case form != nil:
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	case stage == Manifest || stage == Reason:
		request.Header["Accept"] = manifestTypes
	}
	if stage == Root {
		step.As = string(Nobody)
	} else if form == nil {
		a.show(request)
	}
	response, err := a.client.Do(request)
	a.mu.Lock()
	proxy := a.proxy
	a.mu.Unlock()
	if proxy != nil && stage == Root {
		a.answer.Proxy = proxy.Host
	}
	if err != nil {
		step.Fault = way.closer(faultOf(err, place.Host, proxy, a.config.Now()), proxy)
		step.Fault.Text = a.hide.text(step.Fault.Text)
		step.Certificate = shownBy(err)
		a.answer.Steps = append(a.answer.Steps, way.steps(step.Fault.Kind)...)
		step.Stage = way.failedAt(step)
		a.record(step)
		return step, nil
	}
	defer func() { _ = response.Body.Close() }()
	a.answer.Steps = append(a.answer.Steps, way.steps("")...)
	if response.StatusCode == http.StatusProxyAuthRequired && proxy != nil {
		step.Fault = &Fault{Kind: ProxyLogin, Host: proxy.Host, Status: response.StatusCode, Text: "the proxy wants a login"}
	}
	body := a.take(&step, response)
	a.record(step)
	return step, body
}

// take puts an answer into the step and returns its body, of which the step keeps
// no more than its errors and beginning, and nothing if it is none of an error.
func (a *attempt) take(step *Step, response *http.Response) []byte {
	step.Status = response.StatusCode
	if asked := response.Request; asked.Response != nil {
		step.Redirected = bare(asked.URL)
	}
	step.Header = map[string]string{}
	for _, name := range kept {
		if values := response.Header.Values(name); len(values) > 0 {
			step.Header[name] = a.hide.text(strings.Join(values, ", "))
		}
	}
	step.Challenges = ParseChallenges(response.Header)
	body, err := io.ReadAll(io.LimitReader(response.Body, readLimit))
	if err != nil || response.StatusCode < http.StatusBadRequest {
		// An error's body that breaks off tells nothing more than its status.
		return body
	}
	var document struct {
		Errors []RegistryError `json:"errors"`
	}
	if json.Unmarshal(body, &document) == nil {
		for _, e := range document.Errors {
			step.Errors = append(step.Errors, RegistryError{Code: shorten(a.hide.text(e.Code)), Message: shorten(a.hide.text(e.Message))})
		}
	}
	step.Body = shorten(a.hide.text(string(bytes.ToValidUTF8(bytes.TrimSpace(body), nil))))
	return body
}

// shorten is a text that is not too long to be shown.
func shorten(text string) string {
	if len(text) <= shownLimit {
		return text
	}
	return strings.ToValidUTF8(text[:shownLimit], "") + " ..."
}

// way is what happened below one request.
type way struct {
	mu sync.Mutex
	// looked are the hosts that were looked up, with their addresses.
	looked  []string
	address []string
	// reached is the address that was connected to.
	reached string
	shaking bool
	shaken  *tls.ConnectionState
	sent    bool
}

func (w *way) trace() *httptrace.ClientTrace {
	locked := func(f func()) {
		w.mu.Lock()
		defer w.mu.Unlock()
		f()
	}
	return &httptrace.ClientTrace{
		DNSStart: func(info httptrace.DNSStartInfo) { locked(func() { w.looked = append(w.looked, info.Host) }) },
		DNSDone: func(info httptrace.DNSDoneInfo) {
			locked(func() {
				for _, address := range info.Addrs {
					w.address = append(w.address, address.String())
				}
			})
		},
		ConnectDone: func(_, address string, err error) {
			if err == nil {
				locked(func() { w.reached = address })
			}
		},
		TLSHandshakeStart: func() { locked(func() { w.shaking = true }) },
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err == nil {
				locked(func() { w.shaken = &state })
			}
		},
		WroteRequest: func(info httptrace.WroteRequestInfo) { locked(func() { w.sent = info.Err == nil }) },
	}
}

// steps are those that were passed, before a fault of the kind if there was one.
func (w *way) steps(fault FaultKind) (passed []Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.looked) > 0 && len(w.address) > 0 {
		addresses := slices.Clone(w.address)
		slices.Sort(addresses)
		passed = append(passed, Step{Stage: Name, Asked: w.looked[0], Got: strings.Join(slices.Compact(addresses), ", ")})
	}
	if w.reached != "" {
		passed = append(passed, Step{Stage: Connect, Asked: w.reached, Got: "connected"})
	}
	if w.shaken != nil && fault != PlainSpoken {
		step := Step{Stage: TLS, Asked: w.reached, Got: tls.VersionName(w.shaken.Version)}
		if len(w.shaken.PeerCertificates) > 0 {
			step.Certificate = certificate(w.shaken.PeerCertificates[0])
		}
		passed = append(passed, step)
	}
	return passed
}

// closer says of a time that ran out what was waited for.
func (w *way) closer(fault *Fault, proxy *url.URL) *Fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case fault.Kind != Timeout || w.reached != "":
	case proxy != nil:
		fault.Kind, fault.Host = ProxyUnreachable, proxy.Host
	case len(w.looked) > 0 && len(w.address) == 0:
		fault.Kind, fault.Host = NameFailed, w.looked[0]
	}
	return fault
}

// failedAt is the stage at which a step failed.
func (w *way) failedAt(step Step) Stage {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch step.Fault.Kind {
	case NameUnknown, NameFailed:
		return Name
	case Refused, NoRoute, ProxyUnreachable, ProxyLogin, ProxyRefused:
		return Connect
	case UnknownAuthority, WrongName, Expired, NotYet, BadCertificate, Alert, PlainSpoken:
		return TLS
	case Timeout, Broken:
		switch {
		case w.sent:
		case w.shaking && w.shaken == nil:
			return TLS
		case w.reached == "":
			return Connect
		}
	}
	return step.Stage
}
