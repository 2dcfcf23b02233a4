// Package shellfile owns the reading and replacing of a file where nothing but
// a POSIX shell reaches: in a container, on another host.
//
// It refuses to know what the file holds, and how the shell is reached. Content
// goes over standard input and output alone, and what arrives is checked: the
// way there may lose some of it.
package shellfile

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

// Shell runs the script once, by `sh -c SCRIPT NAME arguments...` or what comes
// to the same. Its error is that there is no telling what the script did.
type Shell func(ctx context.Context, stdin []byte, arguments ...string) (Output, error)

// Output is what came back.
type Output struct {
	// Stdout is standard output, or the beginning of it.
	Stdout []byte
	// More says that it went on.
	More bool
	// Silent says what it means that Stdout has no answer of the script in it. Nil
	// means that it was lost on the way: the script is run again.
	Silent func() error
}

// File is a file that a shell reaches.
type File struct {
	Shell Shell
	// Path is of the file; ~/ is the home folder of the shell's user. Empty:
	// $DOCKER_CONFIG/config.json, or ~/.docker/config.json.
	Path string
	// Keep has a file that exists keep its owner and permissions; it is not
	// written where that cannot be. What is written is on the disk before it
	// counts. Without it files are 0600 from the first change on.
	Keep bool
	// Named is what has the file, for people: "container x of pod y".
	Named string
	// Limit bounds the content in bytes. Output holds at least 8 KiB more.
	Limit int
	Hints Hints
}

// Hints say what to do about what fails. They depend on where the file is.
type Hints struct {
	// Subject has the file: "the container".
	Subject string
	// Home is for when there is no telling where the file is.
	Home string
	// Tools is for when a program is missing.
	Tools string
	// ReadOnly is for a file system that cannot be written to.
	ReadOnly string
	// Mounted is for a file that is a mount of its own.
	Mounted string
	// Denied is for what the user with the number uid may not do.
	Denied func(uid string) string
	// Space is for a full disk.
	Space string
	// Lost is for input or answers that are lost each time.
	Lost string
}

// Answer is what the script said of the file.
type Answer struct {
	// Path is of the file, before links are followed; empty if it is not known.
	Path string
	// Content is what the file holds; nil if there is no file.
	Content []byte

	result string
	// uid is the number of the user that the script ran as.
	uid string
	// why is a word for the step that failed, and what the tool said.
	why string
}

// Where is the file for people.
func (f File) Where(a Answer) string {
	if a.Path == "" {
		return "config.json of " + f.Named
	}
	return a.Path + " of " + f.Named
}

// rounds bounds how often the script is run again at once: because its input or
// its answer was lost on the way, or the file was changed meanwhile.
const rounds = 10

// Read reads the file. What the file system refuses is a problem of the kind
// [problem.Storage].
func (f File) Read(ctx context.Context) (Answer, error) {
	var err error
	for range rounds {
		var a Answer
		if a, err = f.run(ctx, nil, "read", ""); err == nil || !passing(err) {
			return a, err
		}
	}
	return Answer{}, f.incomplete(err)
}

// Edit makes the content that the file is to have.
type Edit func(Answer) (after []byte, changed bool, err error)

// Update has edit change the file. If another program writes the file at the
// same time, edit is called anew. A shell looks at the file and then renames: what
// another program writes within these milliseconds is lost, and nothing else is.
// The answer is the last one: what the file holds.
//
// guess is what the file is thought to hold, which spares reading it; a wrong
// one does no harm. Nil is none.
func (f File) Update(ctx context.Context, guess *Answer, edit Edit) (a Answer, changed bool, err error) {
	guessed := guess != nil
	if guessed {
		a.Content = guess.Content
	}
	var last error
	for range rounds {
		if !guessed && a.result == "" {
			if a, err = f.Read(ctx); err != nil {
				return a, changed, err
			}
		}
		after, different, err := edit(a)
		if err != nil && !guessed {
			return a, changed, err
		}
		if err != nil || !different {
			if guessed {
				// The guess may be wrong: only the file itself counts.
				guessed, a = false, Answer{}
				continue
			}
			return a, changed, nil
		}
		guessed = false
		if len(after) > f.Limit {
			return a, changed, f.tooLarge(a)
		}
		stdin := append([]byte(described(after, a.Content)), after...)
		var next Answer
		next, last = f.run(ctx, stdin, "write", token())
		switch {
		case passing(last):
			// Whether it was written is not known: it is read again.
			a = Answer{}
		case last != nil:
			return a, changed, last
		default:
			if a = next; next.result == resultWritten {
				changed = true
				if bytes.Equal(next.Content, after) {
					return a, changed, nil
				}
			}
			if next.result == resultLost {
				last = errLost
			} else {
				last = errContested
			}
		}
	}
	if errors.Is(last, errContested) {
		return a, changed, problem.Wrap(last, problem.Busy, "find what writes the file in "+f.Hints.Subject+" all the time", "%s", f.Where(a))
	}
	return a, changed, f.incomplete(last)
}

var (
	errLost      = errors.New("the way to the shell lost what was sent to the script")
	errContested = errors.New("another program changed the file each time that it was to be written")
)

// run runs the script once.
func (f File) run(ctx context.Context, stdin []byte, mode, token string) (Answer, error) {
	arguments := []string{mode, f.Path, token}
	if f.Keep {
		arguments = append(arguments, "keep")
	}
	output, err := f.Shell(ctx, stdin, arguments...)
	if err != nil {
		return Answer{}, err
	}
	a, err := parse(output.Stdout)
	switch {
	case output.More && !errors.Is(err, errNone):
		return Answer{}, f.tooLarge(begun(output.Stdout))
	case errors.Is(err, errNone) && output.Silent != nil:
		return Answer{}, output.Silent()
	case err != nil:
		return Answer{}, err
	case a.result == resultFailed:
		return a, f.failure(a)
	}
	return a, nil
}

// passing says whether an error may well be another one next time.
func passing(err error) bool {
	return errors.Is(err, errNone) || errors.Is(err, errCut) || errors.Is(err, errTorn)
}

// incomplete is the error of a script whose input or answer is lost each time.
func (f File) incomplete(err error) error {
	return problem.Wrap(err, problem.Unreachable, f.Hints.Lost, "run a script in %s", f.Named)
}

func (f File) tooLarge(a Answer) error {
	return problem.New(problem.Damaged, "a config.json takes a few KiB: look at what fills it, and move the file away; it is left as it is",
		"%s is too large: more than %d KiB", f.Where(a), f.Limit>>10)
}

// token tells apart the temporary files of shells that share a folder, and have
// processes of the same number.
func token() string { return strings.ToLower(rand.Text()[:8]) }
