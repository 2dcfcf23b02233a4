package secretref_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/problem"
)

const marker = "hunter2-SECRET"

// TestMain lets the test binary be the secret program.
func TestMain(m *testing.M) {
	// Under the race detector a program sleeps for a second as it ends.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	if len(os.Args) > 2 && os.Args[1] == "print" {
		fmt.Print(os.Args[2])
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "fail" {
		fmt.Print(os.Args[2])
		fmt.Fprintln(os.Stderr, "cannot open safe with", os.Args[2])
		os.Exit(3)
	}
	if len(os.Args) > 2 && os.Args[1] == "flood" {
		for {
			fmt.Print(os.Args[2])
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "hang" {
		select {}
	}
	os.Exit(m.Run())
}

// refs puts a text into each kind of place.
func refs(t *testing.T, text string) map[string]secretref.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]secretref.Ref{"file": {File: path}}
	if !strings.Contains(text, "\x00") {
		t.Setenv("REGKEEPER_TEST_SECRET", text)
		all["env"] = secretref.Ref{Env: "REGKEEPER_TEST_SECRET"}
		all["exec"] = secretref.Ref{Exec: []string{os.Args[0], "print", text}}
	}
	return all
}

func TestResolve(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", marker, marker},
		{"line break", marker + "\n", marker},
		{"CRLF", marker + "\r\n", marker},
		{"spaces are part of it", "  a b\t", "  a b\t"},
		{"quotes are part of it", `"a"`, `"a"`},
		{"unicode", "pässwörd", "pässwörd"},
		{"no UTF-8", "p\xe4ss", "p\xe4ss"},
		{"number", "0123", "0123"},
		{"long", strings.Repeat("x", 1<<16), strings.Repeat("x", 1<<16)},
	} {
		t.Run(c.name, func(t *testing.T) {
			for kind, ref := range refs(t, c.text) {
				got, err := ref.Resolve(t.Context())
				if err != nil || got.Reveal() != c.want {
					t.Errorf("%s: got %q, %v", kind, got.Reveal(), err)
				}
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"empty", ""}, {"only a line break", "\n"}, {"only CRLF", "\r\n"}, {"two line breaks", marker + "\n\n"}, {"two lines", marker + "\nsecond"},
		{"PEM", "-----BEGIN KEY-----\n" + marker + "\n-----END KEY-----\n"}, {"CR inside", marker + "\rx"}, {"NUL", marker + "\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for kind, ref := range refs(t, c.text) {
				got, err := ref.Resolve(t.Context())
				checkRefused(t, err)
				if !got.Empty() {
					t.Errorf("%s: a secret comes with the error", kind)
				}
			}
		})
	}
}

func TestTooLong(t *testing.T) {
	text := marker + strings.Repeat("x", 64<<10)
	all := refs(t, text)
	delete(all, "env") // the system limits what is in it
	all["file that is sparse"] = secretref.Ref{File: filepath.Join(t.TempDir(), "sparse")}
	if err := os.WriteFile(all["file that is sparse"].File, []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(all["file that is sparse"].File, 1<<30); err != nil {
		t.Fatal(err)
	}
	all["exec that never ends"] = secretref.Ref{Exec: []string{os.Args[0], "flood", marker}}
	for kind, ref := range all {
		_, err := ref.Resolve(t.Context())
		checkRefused(t, err)
		if want := ref.String() + " holds more than 64 KiB"; err.Error() != want || problem.KindOf(err) != problem.Config {
			t.Errorf("%s: error is %v, want %s", kind, err, want)
		}
	}
}

func checkRefused(t *testing.T, err error) {
	t.Helper()
	var p *problem.Error
	if !errors.As(err, &p) || problem.HintOf(err) == "" {
		t.Fatalf("error is %v with hint %q, want a problem", err, problem.HintOf(err))
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s := fmt.Sprintf("%v %+v %#v %s", e, e, e, problem.HintOf(e)); strings.Contains(s, "hunter2") {
			t.Errorf("the error holds the secret: %s", s)
		}
	}
}

func TestNoPlace(t *testing.T) {
	folder := t.TempDir()
	for name, ref := range map[string]secretref.Ref{
		"nothing":         {},
		"unset":           {Env: "REGKEEPER_TEST_UNSET"},
		"missing file":    {File: filepath.Join(folder, "none")},
		"folder":          {File: folder},
		"missing program": {Exec: []string{"regkeeper-test-no-such-program", marker}},
		"missing path":    {Exec: []string{filepath.Join(folder, "none"), marker}},
		"not a program":   {Exec: []string{folder, marker}},
		"failing program": {Exec: []string{os.Args[0], "fail", marker}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ref.Resolve(t.Context())
			checkRefused(t, err)
			if strings.Contains(ref.String(), "hunter2") {
				t.Errorf("String gives arguments: %s", ref)
			}
		})
	}
}

func TestFileIsReadAnew(t *testing.T) {
	ref := refs(t, "one")["file"]
	for _, text := range []string{"one", "two"} {
		if err := os.WriteFile(ref.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ref.Resolve(t.Context()); err != nil || got.Reveal() != text {
			t.Errorf("got %q, %v", got.Reveal(), err)
		}
	}
}

func TestProgramEndsWithTheContext(t *testing.T) {
	for name, args := range map[string][]string{
		"hangs":                    {os.Args[0], "hang"},
		"leaves one that hangs on": {"sh", "-c", `"$0" hang & wait`, os.Args[0]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := secretref.Ref{Exec: args}.Resolve(ctx)
				done <- err
			}()
			select {
			case err := <-done:
				checkRefused(t, err)
			case <-time.After(5 * time.Second):
				t.Error("Resolve outlives its context")
			}
		})
	}
}
