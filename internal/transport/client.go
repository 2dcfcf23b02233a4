package transport

import (
	"fmt"
	"io"
	"net/http"
)

// answerLimit bounds in bytes what is read of an answer.
const answerLimit = 16 << 20

// Client makes a client for APIs that are asked with a login, by libraries that
// read an answer whole. It follows no redirect, since net/http carries along to
// another host what was sent, and headers that it does not know for a login's: a
// redirect is an error that names where it leads; it is for [Conceal], as all of
// net/http's. Of an answer it reads 16 MiB;
// what is longer is an error.
func Client(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: bounded{transport}, CheckRedirect: refuse}
}

// refuse does not tell more of the address than the host: the rest may hold a
// signature.
func refuse(to *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the server redirects to %s://%s, where nothing is sent", to.URL.Scheme, to.URL.Host)
}

// bounded bounds answers.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	response.Body = &limited{ReadCloser: response.Body, left: answerLimit}
	return response, nil
}

// limited fails where a body is longer than it may be: cut off, it might pass for
// a whole one.
type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("the answer is larger than %d bytes", answerLimit)
	}
	return n, err
}
