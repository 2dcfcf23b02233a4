package shellfile

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

//go:embed script.sh
var source string

// Script is the script without comments and indentation: it travels in the
// addresses of requests, which proxies bound, and it stands in audit logs.
var Script = func() string {
	var lines strings.Builder
	for line := range strings.Lines(source) {
		if line = strings.TrimLeft(line, "\t"); line != "\n" && !strings.HasPrefix(line, "#") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}()

// The results of the script.
const (
	resultRead    = "read"    // here is the content
	resultWritten = "written" // here is the content now
	resultChanged = "changed" // nothing was written: the content is not the one to replace
	resultLost    = "lost"    // nothing was written: standard input did not arrive as it was sent
	resultFailed  = "failed"  // nothing was written: see why
)

// described is the first line of the script's standard input: the new content
// by size, SHA-256 and the POSIX checksum, and the old.
func described(after, before []byte) string {
	line := fmt.Sprintf("%d %s %d", len(after), digest(after), cksum(after))
	if before == nil {
		return line + " none none none\n"
	}
	return line + fmt.Sprintf(" %d %s %d\n", len(before), digest(before), cksum(before))
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// cksum is the checksum of POSIX's utility of that name (IEEE Std 1003.1,
// cksum): CRC-32 without reflection, of the text and its length.
func cksum(text []byte) uint32 {
	var sum uint32
	add := func(b byte) {
		sum ^= uint32(b) << 24
		for range 8 {
			high := sum&(1<<31) != 0
			if sum <<= 1; high {
				sum ^= 0x04c11db7
			}
		}
	}
	for _, b := range text {
		add(b)
	}
	for n := len(text); n > 0; n >>= 8 {
		add(byte(n & 0xff))
	}
	return ^sum
}

var (
	// errNone is of an output without an answer in it.
	errNone = errors.New("no answer of the script")
	// errCut is of an answer that lacks a part.
	errCut = errors.New("the answer of the script is cut off")
	// errTorn is of an answer whose content changed while it was read.
	errTorn = errors.New("the content does not match its checksum")
)

const (
	answerBegins = "regkeeper-file 1\n"
	answerEnds   = "\nregkeeper-end\n"
)

// begins is what follows the first line of an answer.
func begins(stdout []byte) (said []byte, ok bool) {
	if said, ok = bytes.CutPrefix(stdout, []byte(answerBegins)); ok {
		return said, true
	}
	_, said, ok = bytes.Cut(stdout, []byte("\n"+answerBegins))
	return said, ok
}

// begun is what the head of an answer tells that may be cut off after it.
func begun(stdout []byte) Answer {
	said, _ := begins(stdout)
	head, _, ok := bytes.Cut(said, []byte("\n\n"))
	if !ok {
		return Answer{}
	}
	a, _ := headed(head)
	return a
}

// headed reads the head of an answer.
func headed(head []byte) (a Answer, fields map[string]string) {
	fields = map[string]string{}
	for line := range strings.SplitSeq(string(head), "\n") {
		name, value, _ := strings.Cut(line, " ")
		fields[name] = value
	}
	return Answer{result: fields["result"], uid: Shown(fields["uid"]), Path: Shown(fields["path"]), why: Shown(fields["why"])}, fields
}

// parse reads an answer. What stands before it is passed over. The error is
// errNone, errCut or errTorn.
func parse(stdout []byte) (Answer, error) {
	said, ok := begins(stdout)
	if !ok {
		return Answer{}, errNone
	}
	head, rest, ok := bytes.Cut(said, []byte("\n\n"))
	body, whole := bytes.CutSuffix(rest, []byte(answerEnds))
	if !ok || !whole {
		return Answer{}, errCut
	}
	a, fields := headed(head)
	switch a.result {
	case resultFailed:
		return a, nil
	case resultRead, resultWritten, resultChanged, resultLost:
	default:
		return Answer{}, errCut
	}
	if fields["file"] == "none" {
		if len(body) > 0 {
			return Answer{}, errTorn
		}
		return a, nil
	}
	sum := digest(body)
	if fields["sum"] == "cksum" {
		sum = strconv.FormatUint(uint64(cksum(body)), 10)
	}
	if fields["file"] != fmt.Sprintf("%d %s", len(body), sum) {
		return Answer{}, errTorn
	}
	a.Content = append([]byte{}, body...)
	return a, nil
}

// maxShown bounds in bytes what is shown of another's words.
const maxShown = 300

// Shown is text of another machine fit for people and their terminals: one line,
// of at most 300 bytes.
func Shown(text string) string {
	if len(text) > maxShown {
		text = text[:maxShown] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(text), "?"))
}

// temporary is the end of the name of the script's temporary file.
var temporary = regexp.MustCompile(`(\.regkeeper)-[0-9]+-[a-z2-7]{8}`)

// failure explains why the script failed. Its tools say the cause in words
// alone, those of strerror in the C locale, of which there are two sets: the
// GNU C library's and musl's.
func (f File) failure(a Answer) error {
	where := f.Where(a)
	step, said, _ := strings.Cut(a.why, " ")
	// The same failure has the same words each time, so that it counts as one.
	said = temporary.ReplaceAllString(said, "$1")
	says := func(words string) bool { return strings.Contains(strings.ToLower(said), words) }
	switch {
	case step == "home":
		return problem.New(problem.Config, f.Hints.Home,
			"%s: there is no telling where it is: %s has neither DOCKER_CONFIG nor HOME, and its user %s is not in /etc/passwd", where, f.Hints.Subject, a.uid)
	case step == "tools":
		return problem.New(problem.Config, f.Hints.Tools, "%s: %s lacks %s", where, f.Hints.Subject, said)
	case step == "links":
		return problem.New(problem.Storage, "look at the links there: ls -l", "%s: too many links lead to each other", where)
	case step == "folder" && said == "", says("is a directory"):
		return problem.New(problem.Storage, "remove the folder, or set path: to a file", "%s: a folder stands there", where)
	case says("read-only file system"):
		return problem.New(problem.Storage, f.Hints.ReadOnly, "%s: %s", where, said)
	case says("resource busy"):
		return problem.New(problem.Storage, f.Hints.Mounted, "%s: %s", where, said)
	case says("permission denied"), says("operation not permitted"):
		return problem.New(problem.Storage, f.Hints.Denied(a.uid), "%s: %s", where, said)
	case says("no space left"), says("quota exceeded"):
		return problem.New(problem.Storage, f.Hints.Space, "%s: %s", where, said)
	case says("not a directory"), says("file exists"):
		return problem.New(problem.Storage, "remove the file that stands where the folder should be, or set path:", "%s: %s", where, said)
	}
	return problem.New(problem.Storage, "look at the folder's owner, permissions and mount in "+f.Hints.Subject, "%s: %s: %s", where, step, said)
}
