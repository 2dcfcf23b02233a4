// Package gitlabapi owns how GitLab's own library is spoken through: over our
// transport and by its rules alone, with no redirect followed, no answer read
// without end, and errors that hold no secret.
//
// It refuses to know what is asked of GitLab.
package gitlabapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	sdk "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// answerLimit bounds in bytes what is read of an answer.
	answerLimit = 16 << 20
	// messageLimit bounds in bytes what an error shows of an answer.
	messageLimit = 300
)

// Client asks one server with one token.
type Client struct {
	*sdk.Client
	url   string
	token credential.Secret
}

// New makes a client for the server whose root is at url. It sends nothing. The
// token goes to that server alone: net/http would carry it along with a redirect,
// as it does all headers but its own, so none is followed. Repeating what may be
// repeated is left to the transport.
//
// The error is a [problem.Error] of kind [problem.Config].
func New(url string, token credential.Secret, transport http.RoundTripper) (*Client, error) {
	client, err := sdk.NewClient(token.Reveal(),
		sdk.WithBaseURL(url),
		sdk.WithURLWarningLogger(slog.New(slog.DiscardHandler)),
		sdk.WithHTTPClient(&http.Client{
			Transport:     guarded{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}),
		sdk.WithoutRetries(),
		sdk.WithCustomLimiter(unlimited{}),
		sdk.WithUserAgent(""),
	)
	if err != nil {
		// Its text holds the URL, and a password in it.
		return nil, problem.New(problem.Config, "give the root of the server, for example https://gitlab.example.com", "the url of GitLab cannot be read")
	}
	return &Client{Client: client, url: url, token: token}, nil
}

// unlimited replaces the library's limiter, which sleeps by what a server says of
// itself.
type unlimited struct{}

func (unlimited) Wait(ctx context.Context) error { return ctx.Err() }

// guarded bounds answers, and keeps from the library what it would panic at.
type guarded struct{ next http.RoundTripper }

func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	for _, link := range response.Header.Values("Link") {
		for part := range strings.SplitSeq(link, ",") {
			// Its next parameter must be name=value.
			if _, parameters, ok := strings.Cut(part, ";"); ok && !strings.Contains(strings.SplitN(parameters, ";", 2)[0], "=") {
				response.Header.Del("Link")
			}
		}
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, answerLimit), response.Body}
	return response, nil
}

// Failure is an answer that says no.
type Failure struct {
	// Status is the answer's HTTP status.
	Status int
	// Message is what the server says, on one line. It is empty if that is not
	// GitLab's.
	Message string
}

// Error is the status and the message.
func (f *Failure) Error() string {
	text := fmt.Sprintf("the server answered %d %s", f.Status, http.StatusText(f.Status))
	if f.Message != "" {
		text += ": " + f.Message
	}
	return strings.TrimSpace(text)
}

// Status is the HTTP status in an error of the library or of [Client.Explain];
// zero if there was no answer, or a good one.
func Status(err error) int {
	var failure *Failure
	var refusal *sdk.ErrorResponse
	switch {
	case errors.As(err, &failure):
		return failure.Status
	case errors.As(err, &refusal):
		return refusal.StatusCode
	case errors.Is(err, sdk.ErrNotFound):
		return http.StatusNotFound
	}
	return 0
}

// Hints say what to do about an answer.
type Hints struct {
	// Denied is for a token that is refused, or lacks a right.
	Denied string
	// Missing is for what GitLab does not know, or does not show to the token's
	// owner.
	Missing string
	// Invalid is for what GitLab takes for wrong.
	Invalid string
}

const foreignHint = "the answer is not GitLab's: check the url, and proxies before the server"

// Explain makes a problem of what the library returned: of kind
// [problem.Denied] with [credential.ErrRefused] in its chain,
// [problem.NotFound], [problem.Config] for what GitLab takes for wrong,
// [problem.Unreachable] for the rest. A [Failure] is in its chain if the server
// answered, and the context's error if that ended. It returns nil for nil.
func (c *Client) Explain(response *sdk.Response, err error, what string, hints Hints) error {
	if err == nil {
		return nil
	}
	where := fmt.Sprintf("%s at %s", what, c.url)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", where, context.Canceled)
	}
	status := Status(err)
	if status == 0 && response != nil {
		// The text of a decoder's error quotes the answer.
		return problem.New(problem.Unreachable, foreignHint, "%s: the answer cannot be read", where)
	}
	if status == 0 {
		return problem.Wrap(err, problem.Unreachable, "check that the server is up, and its url in the configuration", "%s", where)
	}
	failure := &Failure{Status: status}
	ours := response != nil && strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
	var refusal *sdk.ErrorResponse
	if errors.As(err, &refusal) && ours {
		failure.Message = c.quiet(refusal.Message)
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, failure), problem.Denied, hints.Denied, "%s", where)
	case status == http.StatusNotFound && ours:
		return problem.Wrap(failure, problem.NotFound, hints.Missing, "%s", where)
	case (status == http.StatusBadRequest || status == http.StatusUnprocessableEntity || status == http.StatusConflict) && ours:
		return problem.Wrap(failure, problem.Config, hints.Invalid, "%s", where)
	case status/100 == 3 || !ours && status/100 == 4 && status != http.StatusTooManyRequests:
		return problem.Wrap(failure, problem.Unreachable, foreignHint, "%s", where)
	case status == http.StatusTooManyRequests:
		return problem.Wrap(failure, problem.Unreachable, "the server limits how often it is asked: try again later", "%s", where)
	}
	return problem.Wrap(failure, problem.Unreachable, "the server answered with an error of its own: look at its log", "%s", where)
}

// quiet is a message of the server's on one line, without the token should it
// repeat that.
func (c *Client) quiet(message string) string {
	if token := c.token.Reveal(); token != "" {
		message = strings.ReplaceAll(message, token, "[redacted]")
	}
	message = strings.Join(strings.Fields(message), " ")
	if len(message) > messageLimit {
		message = strings.ToValidUTF8(message[:messageLimit], "") + "…"
	}
	return message
}
