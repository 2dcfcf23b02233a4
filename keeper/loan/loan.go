// Package loan owns logins for one piece of work: issued when it begins, ended
// when it ends.
//
// The names of the logins that it mints say when they end at the latest, so that
// what a killed process left behind is found and revoked without a journal. It
// refuses to touch any other login: its mark is not that of the keyring.
package loan

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
)

// Lender lends logins of one registry.
type Lender struct {
	Host   credential.Host
	Source credential.Source
	// Instance is the regkeeper's, as of [credential.MarkOf].
	Instance string
	// Life is how long a piece of work may take. A login is never ended earlier
	// by another regkeeper process.
	Life time.Duration
	Now  func() time.Time
}

// slack is by how much the clocks of two machines may differ.
const slack = time.Hour

// patience is how long ending a login may take, when the work itself was
// interrupted too.
const patience = 30 * time.Second

// Borrow issues a login with the scopes, and returns what ends it. A source that
// mints none gives the login that it has, and ending that does nothing.
//
// Its errors are those of [credential.Source] and [credential.Minter].
func (l *Lender) Borrow(ctx context.Context, scopes credential.Scopes) (credential.Credential, func(context.Context) error, error) {
	minter, ok := l.Source.(credential.Minter)
	if !ok {
		login, err := l.Source.Issue(ctx, credential.Request{Host: l.Host, Scopes: scopes})
		return login, func(context.Context) error { return nil }, err
	}
	// One that cannot be ended is no reason not to work: the next sweep tells.
	_ = l.Sweep(ctx)
	end := l.Now().Add(l.Life)
	login, err := minter.Issue(ctx, credential.Request{
		Host: l.Host, Name: l.mark().Name(serial(end)), Scopes: scopes, Expires: end,
	})
	if err != nil {
		return login, nil, fmt.Errorf("borrow a login for %s: %w", l.Host, err)
	}
	return login, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if err := minter.Revoke(ctx, login.ID); err != nil {
			return fmt.Errorf("end the borrowed login %s: %w", login.Name, err)
		}
		return nil
	}, nil
}

// Sweep ends the borrowed logins whose time is over: those of processes that were
// killed.
func (l *Lender) Sweep(ctx context.Context) error {
	minter, ok := l.Source.(credential.Minter)
	if !ok {
		return nil
	}
	var over []credential.Issued
	for issued, err := range minter.Issued(ctx, l.mark()) {
		if err != nil {
			return fmt.Errorf("list borrowed logins of %s: %w", l.Host, err)
		}
		if end, ok := endOf(issued.Name); ok && end.Before(l.Now().Add(-slack)) {
			over = append(over, issued)
		}
	}
	for _, issued := range over {
		if err := minter.Revoke(ctx, issued.ID); err != nil {
			return fmt.Errorf("end the borrowed login %s: %w", issued.Name, err)
		}
	}
	return nil
}

func (l *Lender) mark() credential.Mark { return credential.LoanMarkOf(l.Instance, l.Host) }

// serial is the end of a login's name: "t", its last moment in Unix seconds, and
// what tells it from others of that moment.
func serial(end time.Time) string {
	return "t" + strconv.FormatInt(end.Unix(), 10) + "-" + strings.ToLower(rand.Text()[:8])
}

func endOf(name string) (time.Time, bool) {
	parts := strings.Split(name, "-")
	if len(parts) < 2 {
		return time.Time{}, false
	}
	text, ok := strings.CutPrefix(parts[len(parts)-2], "t")
	seconds, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(seconds, 0), ok && err == nil
}
