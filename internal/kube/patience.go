package kube

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// readPatience is how long the cluster may take to begin its answer to a
	// read. It is less than the time in which status is to be told.
	readPatience = 8 * time.Second
	// writePatience is that for writes, which may have to pass admission
	// webhooks of up to 30 s (Kubernetes documentation, "Dynamic Admission
	// Control", timeouts), and for watches.
	writePatience = 35 * time.Second
)

// patient bounds how long a cluster may take to begin an answer: one that
// accepts a request and never says a word would hold up whoever asks for ever,
// and with them what is done for other clusters. An answer that has begun may
// take its time, as those to watches do.
func patient(next http.RoundTripper) http.RoundTripper { return &bounding{next} }

type bounding struct{ next http.RoundTripper }

var _ http.RoundTripper = (*bounding)(nil)

func (b *bounding) RoundTrip(request *http.Request) (*http.Response, error) {
	patience := writePatience
	if request.Method == http.MethodGet && request.URL.Query().Get("watch") == "" {
		patience = readPatience
	}
	ctx, cancel := context.WithCancel(request.Context())
	late := time.AfterFunc(patience, cancel)
	response, err := b.next.RoundTrip(request.WithContext(ctx))
	inTime := late.Stop()
	switch {
	case err == nil && inTime:
		response.Body = &body{response.Body, cancel}
		return response, nil
	case err == nil:
		_ = response.Body.Close()
	}
	cancel()
	if !inTime && request.Context().Err() == nil {
		err = fmt.Errorf("no answer within %s: %w", patience, context.DeadlineExceeded)
	}
	return nil, err
}

// body ends the request's context when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
