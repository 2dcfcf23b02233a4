package kube_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPatience has a cluster that accepts requests and never answers.
func TestPatience(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, url string
		want        time.Duration
	}{
		{http.MethodGet, "http://cluster/api/v1/pods", 8 * time.Second},
		{http.MethodGet, "http://cluster/api/v1/pods?watch=true", 35 * time.Second},
		{http.MethodPatch, "http://cluster/api/v1/namespaces/a/secrets/b", 35 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			client := http.Client{Transport: kube.Patient(tripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}))}
			request, err := http.NewRequestWithContext(t.Context(), c.method, c.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, err = client.Do(request)
			if took := time.Since(began); took != c.want || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s %s ended after %v: %v", c.method, c.url, took, err)
			}
			if kind := problem.KindOf(kube.Problem(err, "ask")); kind != problem.Unreachable {
				t.Errorf("%v is a problem of kind %v", err, kind)
			}

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := client.Do(request.WithContext(ctx)); !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("what its caller ended: %v", err)
			}
		})
	}
}

// TestPatienceWithAnswers lets an answer that has begun take its time.
func TestPatienceWithAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked context.Context
		client := http.Client{Transport: kube.Patient(tripper(func(r *http.Request) (*http.Response, error) {
			asked = r.Context()
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("pods"))}, nil
		}))}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://cluster/api/v1/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		if text, err := io.ReadAll(response.Body); string(text) != "pods" || err != nil || asked.Err() != nil {
			t.Errorf("after an hour: %q, %v, %v", text, err, asked.Err())
		}
		if err := response.Body.Close(); err != nil || asked.Err() == nil {
			t.Errorf("the request goes on when its answer is closed: %v", err)
		}
	})
}
