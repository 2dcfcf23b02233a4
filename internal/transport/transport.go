// Package transport owns how regkeeper speaks HTTP to others: with time
// limits, a few retries of what may be repeated, a name of its own, with a login
// for no host but the one that was asked, and without a secret in any error.
package transport

import (
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 30 * time.Second
	idleTimeout   = 90 * time.Second
	idlePerHost   = 16
	userAgent     = "regkeeper"
)

// Config is what a transport is made of.
type Config struct {
	// Base sends the requests; one with time limits and the proxies of the
	// environment if nil.
	Base http.RoundTripper
	// Retries is how often a request is repeated that did not get through or
	// met an overloaded server; zero means never. Only requests that may be
	// repeated are (RFC 9110 section 9.2.2).
	Retries int
}

// New makes a transport.
func New(config Config) http.RoundTripper {
	base := config.Base
	if base == nil {
		base = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: answerTimeout,
			IdleConnTimeout:       idleTimeout,
			MaxIdleConnsPerHost:   idlePerHost,
			ForceAttemptHTTP2:     true,
		}
	}
	var chain http.RoundTripper = named{base}
	if config.Retries > 0 {
		chain = idempotent{
			retrying: transport.NewRetry(chain,
				transport.WithRetryBackoff(transport.Backoff{
					Duration: 100 * time.Millisecond, Factor: 3, Jitter: 0.3, Steps: config.Retries + 1,
				}),
				transport.WithRetryStatusCodes(http.StatusTooManyRequests, http.StatusBadGateway,
					http.StatusServiceUnavailable, http.StatusGatewayTimeout),
			),
			once: chain,
		}
	}
	return chain
}

// idempotent repeats only what may be repeated.
type idempotent struct{ retrying, once http.RoundTripper }

func (t idempotent) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		return t.retrying.RoundTrip(r)
	}
	return t.once.RoundTrip(r)
}

// named signs requests with regkeeper's name, unless they are signed.
type named struct{ next http.RoundTripper }

func (t named) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("User-Agent") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("User-Agent", userAgent)
	}
	return t.next.RoundTrip(r)
}
