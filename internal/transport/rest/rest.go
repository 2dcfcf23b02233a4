// Package rest asks APIs that answer in JSON, where they are too small a part of
// regkeeper for a client library of theirs.
//
// It refuses to follow redirects: a header with a token in it would go to
// wherever they lead. It knows no logins, and does not repeat what failed.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
)

const (
	// answerLimit and errorLimit bound what is read of an answer, in bytes.
	answerLimit = 64 << 20
	errorLimit  = 64 << 10
	// shownLimit bounds what is shown of an answer that is an error, in bytes.
	shownLimit = 500
)

// Client asks one API.
type Client struct {
	// URL is the API's root, without a slash at its end.
	URL string
	// Transport sends the requests.
	Transport http.RoundTripper
}

// Error is an answer with a status other than 2xx.
type Error struct {
	Status int
	// Body is what came with it if that is JSON, and empty otherwise: then it
	// was perhaps not the API that answered.
	Body []byte
}

// Error is the status, and what came with it.
func (e *Error) Error() string {
	text := fmt.Sprintf("answered %d %s", e.Status, http.StatusText(e.Status))
	if len(e.Body) > 0 {
		text += ": " + strings.TrimSpace(string(e.Body[:min(len(e.Body), shownLimit)]))
	}
	return text
}

// Do sends a request and reads its answer into out, unless out is nil. The path
// is escaped, and begins with a slash. authorize may change the request before
// it is sent. An [*Error] is in the chain of the error if there was an answer of
// another status than 2xx.
func (c Client) Do(ctx context.Context, method, path string, query url.Values, authorize func(*http.Request), out any) (http.Header, error) {
	place := strings.TrimSuffix(c.URL, "/") + path
	if len(query) > 0 {
		place += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, place, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Accept", "application/json")
	authorize(request)
	client := http.Client{Transport: c.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		told := &Error{Status: response.StatusCode}
		if isJSON(response.Header) {
			told.Body, _ = io.ReadAll(io.LimitReader(response.Body, errorLimit))
		}
		return response.Header, told
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read answer: %w", err)
	case len(raw) > answerLimit:
		return nil, fmt.Errorf("read answer: it is larger than %d bytes", answerLimit)
	case len(raw) > 0 && !isJSON(response.Header):
		return nil, fmt.Errorf("read answer: it is %q, and no JSON", response.Header.Get("Content-Type"))
	case out == nil:
		return response.Header, nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("parse answer: %w", err)
	}
	return response.Header, nil
}

func isJSON(header http.Header) bool {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}

// Status is that of the answer which an error came from, or zero.
func Status(err error) int {
	var told *Error
	if errors.As(err, &told) {
		return told.Status
	}
	return 0
}

// Missing says whether the API itself said that it does not have what it was
// asked for. A 404 of another server before it says nothing.
func Missing(err error) bool {
	var told *Error
	return errors.As(err, &told) && told.Status == http.StatusNotFound && len(told.Body) > 0
}
