package builtin_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

var errCut = errors.New("cut")

// cutOff sends the beginning of what a PATCH says that it has, and closes the
// connection.
func (c conforming) cutOff(location string, comes []byte, says int, ranged string) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPatch, c.server.URL+location, io.MultiReader(bytes.NewReader(comes), broken{}))
	if err != nil {
		c.t.Fatal(err)
	}
	r.ContentLength = int64(says)
	r.Header.Set("Authorization", c.auth)
	if ranged != "" {
		r.Header.Set("Content-Range", ranged)
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		_ = answer.Body.Close()
	}
	if !errors.Is(err, errCut) {
		c.t.Fatalf("the request ended with %v", err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errCut }

// stands waits for so many bytes of an upload to have arrived, and returns where
// it goes on. What was sent before a connection was closed may be read after it.
func (c conforming) stands(location string, arrived int) string {
	c.t.Helper()
	want := fmt.Sprintf("0-%d", arrived-1)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		got := c.ask("GET", location, nil).want(c.t, 204)
		if got.header.Get("Range") == want {
			return got.header.Get("Location")
		}
		if time.Now().After(end) {
			c.t.Fatalf("Range is %q, want %q", got.header.Get("Range"), want)
		}
	}
}

// TestAnUploadGoesOn cuts an upload twice in the midst of a request. What came
// stays, and the rest follows: OCI distribution specification 1.1, section Pushing
// a blob in chunks.
func TestAnUploadGoesOn(t *testing.T) {
	t.Parallel()
	c := conform(t)
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	const first, second = 1<<20 + 7, 2<<20 - 3
	location := c.begin()
	c.cutOff(location, data[:first], len(data), "")
	location = c.stands(location, first)
	c.cutOff(location, data[first:second], len(data)-first, fmt.Sprintf("%d-%d", first, len(data)-1))
	location = c.stands(location, second)
	// Neither what was before, nor with a gap.
	for _, from := range []int{0, first, second - 1, second + 1} {
		c.ask("PATCH", location, data[from:], "Content-Range", fmt.Sprintf("%d-%d", from, len(data)-1)).want(t, 416)
	}
	location = c.stands(location, second)
	got := c.ask("PATCH", location, data[second:], "Content-Range", fmt.Sprintf("%d-%d", second, len(data)-1)).want(t, 202)
	wantHeader(t, got, "Range", fmt.Sprintf("0-%d", len(data)-1))
	c.wantBlob(t, c.ask("PUT", with(got.header.Get("Location"), "digest", digestOf(data)), nil), data)
}

// What goes on with other bytes is not the blob.
func TestAnUploadThatGoesOnIsVerified(t *testing.T) {
	t.Parallel()
	c := conform(t)
	data := bytes.Repeat([]byte("content "), 1<<16)
	location := c.begin()
	c.cutOff(location, data[:1<<18], len(data), "")
	location = c.stands(location, 1<<18)
	other := bytes.Clone(data[1<<18:])
	other[100]++
	got := c.ask("PATCH", location, other, "Content-Range", fmt.Sprintf("%d-%d", 1<<18, len(data)-1)).want(t, 202)
	c.ask("PUT", with(got.header.Get("Location"), "digest", digestOf(data)), nil).want(t, 400)
	c.ask("HEAD", "app/blobs/"+digestOf(data), nil).want(t, 404)
}
