package oci

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

const (
	// mostWaits is how often one request is put off by a rate limit.
	mostWaits = 6
	// longestWait is how long a registry may ask to be left alone. What asks
	// for more gets its way: the request fails.
	longestWait = time.Minute
	// firstWait is how long to wait where the registry does not say; it
	// doubles.
	firstWait = time.Second
)

// patient waits for rate limits: 429, and 503 with a time (RFC 6585 section 4,
// RFC 9110 section 10.2.3).
type patient struct{ next http.RoundTripper }

func (p patient) RoundTrip(request *http.Request) (*http.Response, error) {
	for n := range mostWaits {
		response, err := p.next.RoundTrip(request)
		if err != nil {
			return nil, err
		}
		wait, limited := limitOf(response, n)
		if !limited || wait > longestWait {
			return response, nil
		}
		again, err := rewound(request)
		if err != nil {
			_ = response.Body.Close()
			return nil, err
		}
		if again == nil {
			return response, nil
		}
		drain(response)
		if err := pause(request.Context(), wait); err != nil {
			closeBody(again)
			return nil, err
		}
		request = again
	}
	return p.next.RoundTrip(request)
}

// limitOf says how long an answer asks to wait; n is how often it was waited.
func limitOf(response *http.Response, n int) (time.Duration, bool) {
	text := response.Header.Get("Retry-After")
	switch response.StatusCode {
	case http.StatusTooManyRequests:
	case http.StatusServiceUnavailable:
		if text == "" {
			return 0, false
		}
	default:
		return 0, false
	}
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(time.Until(at), 0), true
	}
	return min(firstWait<<n, longestWait), true
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
