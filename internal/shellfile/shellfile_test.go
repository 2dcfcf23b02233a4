package shellfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/internal/shellfile"
	"github.com/regkeeper/regkeeper/problem"
)

// at is a file in a folder of its own, with a shell of this machine. Broken
// changes what comes back, by the number of the run.
func at(t testing.TB, broken func(n int, output *shellfile.Output, stdin *[]byte)) (file shellfile.File, path string) {
	t.Helper()
	home, n := t.TempDir(), 0
	path = filepath.Join(home, "config.json")
	return shellfile.File{
		Path: path, Named: "there", Limit: 4096, Keep: true,
		Hints: shellfile.Hints{Subject: "the host", Lost: "look", Denied: func(string) string { return "uid" }},
		Shell: func(ctx context.Context, stdin []byte, arguments ...string) (shellfile.Output, error) {
			var output shellfile.Output
			if n++; broken != nil {
				broken(n, &output, &stdin)
			}
			if output.Stdout != nil || output.Silent != nil || output.More {
				return output, nil
			}
			cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", shellfile.Script, "x"}, arguments...)...)
			cmd.Dir, cmd.Stdin = home, bytes.NewReader(stdin)
			stdout, err := cmd.Output()
			return shellfile.Output{Stdout: stdout}, err
		},
	}, path
}

// becomes has a file hold a text.
func becomes(text string) shellfile.Edit {
	return func(a shellfile.Answer) ([]byte, bool, error) { return []byte(text), string(a.Content) != text, nil }
}

func holds(t *testing.T, path, want string) {
	t.Helper()
	if text, err := os.ReadFile(path); err != nil || string(text) != want {
		t.Errorf("the file holds %q, %v, want %q", text, err, want)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	file, path := at(t, nil)
	if a, err := file.Read(t.Context()); err != nil || a.Content != nil || a.Path != path {
		t.Errorf("a file that is not there: %+v, %v", a, err)
	}
	for _, guess := range []*shellfile.Answer{nil, {}, {Content: []byte("wrong")}, {Content: []byte("2")}} {
		for _, text := range []string{"1", "2", "", "2\n", "2"} {
			a, _, err := file.Update(t.Context(), guess, becomes(text))
			if err != nil || string(a.Content) != text {
				t.Errorf("update to %q: %q, %v", text, a.Content, err)
			}
			holds(t, path, text)
		}
	}
	if _, changed, err := file.Update(t.Context(), nil, becomes("2")); changed || err != nil {
		t.Errorf("the same again: %v, %v", changed, err)
	}
	no := errors.New("no")
	if _, _, err := file.Update(t.Context(), nil, func(shellfile.Answer) ([]byte, bool, error) { return nil, true, no }); !errors.Is(err, no) {
		t.Errorf("an edit that fails: %v", err)
	}
	if _, _, err := file.Update(t.Context(), nil, becomes(strings.Repeat("x", 4097))); problem.KindOf(err) != problem.Damaged {
		t.Errorf("a content that is too large: %v", err)
	}
	holds(t, path, "2")
}

// TestLosses: whatever is lost on the way, nothing but the whole is written.
func TestLosses(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(n int, output *shellfile.Output, stdin *[]byte){
		"no answer": func(n int, output *shellfile.Output, _ *[]byte) {
			if n < 5 {
				output.Stdout = []byte("hello\n")
			}
		},
		"input lost": func(n int, _ *shellfile.Output, stdin *[]byte) {
			if n < 5 && *stdin != nil {
				*stdin = nil
			}
		},
		"input cut": func(n int, _ *shellfile.Output, stdin *[]byte) {
			if n < 5 && len(*stdin) > 2 {
				*stdin = (*stdin)[:len(*stdin)-2]
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, path := at(t, broken)
			if _, changed, err := file.Update(t.Context(), nil, becomes("text")); err != nil || !changed {
				t.Errorf("update: %v, %v", changed, err)
			}
			holds(t, path, "text")
		})
	}
	file, path := at(t, func(_ int, _ *shellfile.Output, stdin *[]byte) {
		if *stdin != nil {
			*stdin = []byte{}
		}
	})
	if _, _, err := file.Update(t.Context(), nil, becomes("text")); problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) != "look" {
		t.Errorf("with all input lost: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("something was written")
	}
	silent := problem.New(problem.Denied, "", "silent")
	file, _ = at(t, func(_ int, output *shellfile.Output, _ *[]byte) { output.Silent = func() error { return silent } })
	if _, err := file.Read(t.Context()); !errors.Is(err, silent) {
		t.Errorf("a shell that is silent: %v", err)
	}
}

// TestScriptIsShort keeps it below what the addresses of requests take.
func TestScriptIsShort(t *testing.T) {
	t.Parallel()
	if n := len(shellfile.Script); n > 4096 {
		t.Errorf("the script takes %d bytes", n)
	}
}

func TestShown(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		" a\n\tb\r": "a  b", "\x1b[2J": "?[2J", "\xff": "?", strings.Repeat("x", 400): strings.Repeat("x", 300) + "…",
	} {
		if got := shellfile.Shown(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

// FuzzAnswer has the shell say anything.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"", "regkeeper-file 1\n", "regkeeper-file 1\nresult read\nfile none\n\n\nregkeeper-end\n",
		"regkeeper-file 1\nresult read\nuid 0\npath /x\nsum cksum\nfile 2 3956903203\nwhy \n\n{}\nregkeeper-end\n",
		"regkeeper-file 1\nresult changed\nfile none\n\n\nregkeeper-end\n",
		"x\nregkeeper-file 1\nresult failed\nuid 7\npath /x\nwhy write sh: can't create /x: Read-only file system\n\n\nregkeeper-end\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, stdout []byte) {
		file, _ := at(t, func(_ int, output *shellfile.Output, _ *[]byte) { output.Stdout = append([]byte{}, stdout...) })
		a, err := file.Read(t.Context())
		if err == nil && (!strings.Contains(string(stdout), "regkeeper-file 1\n") || !bytes.HasSuffix(stdout, []byte("\nregkeeper-end\n"))) {
			t.Errorf("%q is taken for an answer", stdout)
		}
		if err == nil && !bytes.Contains(stdout, a.Content) {
			t.Errorf("%q has the content %q", stdout, a.Content)
		}
		if strings.ContainsAny(fmt.Sprint(err, a.Path), "\n\x1b") {
			t.Errorf("%q puts control characters before people: %q", stdout, err)
		}
	})
}
