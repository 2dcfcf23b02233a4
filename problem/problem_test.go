package problem_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
)

// TestExitCodes is the public contract: a row changes only with a new major
// version.
func TestExitCodes(t *testing.T) {
	want := map[problem.Kind]int{
		problem.Internal: 1, problem.Pending: 2, problem.Usage: 3, problem.Config: 4, problem.Denied: 5, problem.Unreachable: 6,
		problem.Busy: 7, problem.NotFound: 8, problem.Damaged: 9, problem.Storage: 10, problem.Partial: 11, problem.Refused: 12,
	}
	got := map[problem.Kind]int{}
	seen := map[int]problem.Kind{}
	for kind := range want {
		code := kind.ExitCode()
		got[kind] = code
		if other, ok := seen[code]; ok {
			t.Errorf("%s and %s both exit with %d", kind, other, code)
		}
		seen[code] = kind
		if code < 1 || code > 125 {
			t.Errorf("%s exits with %d, which a shell uses itself", kind, code)
		}
		if http.StatusText(kind.HTTPStatus()) == "" {
			t.Errorf("%s has HTTP status %d", kind, kind.HTTPStatus())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("exit codes (-want +got):\n%s", diff)
	}
	for _, unknown := range []problem.Kind{"", "new"} {
		if unknown.ExitCode() != 1 || unknown.HTTPStatus() != http.StatusInternalServerError {
			t.Errorf("kind %q exits with %d", unknown, unknown.ExitCode())
		}
	}
}

func TestKindAndHint(t *testing.T) {
	bare := errors.New("bare")
	inner := problem.New(problem.Denied, "log in", "refused")
	mute := problem.New(problem.Busy, "", "busy")
	for _, c := range []struct {
		name string
		err  error
		kind problem.Kind
		hint string
		text string
	}{
		{"nil", nil, "", "", ""},
		{"bare", bare, problem.Internal, "", "bare"},
		{"problem", inner, problem.Denied, "log in", "refused"},
		{"wrapped by fmt", fmt.Errorf("pull: %w", inner), problem.Denied, "log in", "pull: refused"},
		{"wrapped twice by fmt", fmt.Errorf("a: %w", fmt.Errorf("b: %w", inner)), problem.Denied, "log in", "a: b: refused"},
		{"the outer counts", problem.Wrap(inner, problem.Partial, "see below", "some"), problem.Partial, "see below", "some: refused"},
		{"the outer without a hint", problem.Wrap(inner, problem.Partial, "", "some"), problem.Partial, "log in", "some: refused"},
		{"deep below", problem.Wrap(fmt.Errorf("x: %w", inner), problem.Partial, "", "some"), problem.Partial, "log in", "some: x: refused"},
		{"cause without a problem", problem.Wrap(bare, problem.Storage, "h", "write"), problem.Storage, "h", "write: bare"},
		{"joined", errors.Join(bare, inner), problem.Denied, "log in", "bare\nrefused"},
		{"joined with one that has no hint", errors.Join(mute, inner), problem.Busy, "log in", "busy\nrefused"},
		{"joined, both", errors.Join(inner, problem.New(problem.Busy, "wait", "busy")), problem.Denied, "log in", "refused\nbusy"},
		{"joined and wrapped", problem.Wrap(errors.Join(mute, fmt.Errorf("x: %w", inner)), problem.Partial, "", "some"), problem.Partial, "log in", "some: busy\nx: refused"},
		{"two by fmt", fmt.Errorf("%w and %w", mute, inner), problem.Busy, "log in", "busy and refused"},
		{"no hint anywhere", errors.Join(mute, bare), problem.Busy, "", "busy\nbare"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := problem.KindOf(c.err); got != c.kind {
				t.Errorf("kind %q, want %q", got, c.kind)
			}
			if got := problem.HintOf(c.err); got != c.hint {
				t.Errorf("hint %q, want %q", got, c.hint)
			}
			if c.err != nil && c.err.Error() != c.text {
				t.Errorf("text %q, want %q", c.err, c.text)
			}
		})
	}
}

func TestWrap(t *testing.T) {
	if err := problem.Wrap(nil, problem.Storage, "h", "x"); err != nil {
		t.Errorf("Wrap of nil is %#v", err)
	}
	err := problem.Wrap(fmt.Errorf("read: %w", io.ErrUnexpectedEOF), problem.Storage, "h", "file %s", "x")
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is not in the chain")
	}
	var p *problem.Error
	if !errors.As(fmt.Errorf("y: %w", err), &p) || p.Text != "file x" {
		t.Errorf("problem is %+v", p)
	}
}
