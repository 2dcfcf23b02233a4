package transport_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/regkeeper/regkeeper/internal/transport"
)

// TestClientFollowsNoRedirect sees that nothing of a request, whose body and
// headers are secret, comes to where a redirect leads, and that a redirect is no
// success.
func TestClientFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var came atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { came.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", other.URL+"/x?signature=hunter2")
				w.WriteHeader(status)
			}))
			request, err := http.NewRequestWithContext(t.Context(), method, server.URL, strings.NewReader("hunter2"))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("X-Api-Token", "hunter2")
			response, err := transport.Client(http.DefaultTransport).Do(request)
			if response != nil {
				_ = response.Body.Close()
			}
			err = transport.Conceal(err, "", "hunter2")
			if err == nil || !strings.Contains(err.Error(), "redirects to "+other.URL+",") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s, %d: %v", method, status, err)
			}
			server.Close()
		}
	}
	if n := came.Load(); n > 0 {
		t.Errorf("%d requests came to the other host", n)
	}
}

type answering func(*http.Request) (*http.Response, error)

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestClientBoundsAnswers(t *testing.T) {
	t.Parallel()
	const most = 16 << 20
	for _, size := range []int64{0, 5, most, most + 1, 1 << 50} {
		client := transport.Client(answering(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(io.LimitReader(zeros{}, size))}, nil
		}))
		response, err := client.Get("http://example.com")
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = got.ReadFrom(response.Body)
		_ = response.Body.Close()
		if size <= most && (err != nil || int64(got.Len()) != size) || size > most && (err == nil || got.Len() > most) {
			t.Errorf("of %d bytes came %d: %v", size, got.Len(), fmt.Sprint(err))
		}
	}
}
