package gitlabvar

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/problem"
)

// variable is what a variable is, as far as it matters here.
type variable struct {
	value string
	// file says that jobs get the path of a file with the value.
	file bool
	// raw says that other variables in the value are not put in.
	raw               bool
	masked, protected bool
	hidden            bool
}

const (
	// instanceLimit bounds in characters the value of the server's variables
	// (GitLab's documentation, "Instance-level CI/CD variables API").
	instanceLimit = 10_000
	// leastMasked is how many characters a value has at least that is masked, and
	// spaces those that it has not (GitLab's documentation, "Mask a CI/CD variable";
	// Ci::Maskable, which also refuses most characters of JSON where the value is
	// expanded).
	leastMasked = 8
	spaces      = " \t\r\n\f\v"
)

const empty = `{"auths":{}}`

// document reads the value.
func (v variable) document(place credential.Place) (*dockerconfig.Document, error) {
	// GitLab does not say of the server's variables that they are hidden. A masked
	// one without a value there is none.
	if v.hidden || v.masked && v.value == "" {
		return nil, problem.New(problem.Config, "delete it and make it anew, masked but not hidden: entries of others in it cannot be kept unseen",
			"%s is hidden: GitLab shows its value to nobody", place)
	}
	text := v.value
	if strings.TrimSpace(text) == "" {
		text = empty
	}
	doc, err := dockerconfig.Parse([]byte(text))
	return doc, problem.Wrap(err, problem.Damaged, "repair or delete the variable: what cannot be read is not overwritten", "%s", place)
}

// strict holds the value to [Strict], unless it is that of a file: jobs use that as
// config.json, which may have more.
func (v variable) strict(place credential.Place) error {
	if v.file || strings.TrimSpace(v.value) == "" {
		return nil
	}
	if err := Strict(v.value); err != nil {
		return problem.Wrap(err, problem.Config, "take that out of the variable, or have it in a variable of another name, of type file", "%s is not accepted by the docker CLI from 28.3 on", place)
	}
	return nil
}

// check says why GitLab would not take the variable.
func (v variable) check(s spot) error {
	switch {
	case s.level == instance && utf8.RuneCountInString(v.value) > instanceLimit:
		return problem.New(problem.Config, "deliver to groups in place of the instance, or fewer registries",
			"%s would have more than the %d characters that GitLab has room for", s.place(), instanceLimit)
	case !v.masked:
		return nil
	case strings.ContainsAny(v.value, spaces):
		return problem.New(problem.Config, "rename the entry that has white space in its name, or set unmasked: true",
			"%s has white space in it: GitLab does not mask that", s.place())
	case utf8.RuneCountInString(v.value) < leastMasked:
		return problem.New(problem.Config, "set unmasked: true", "%s is too short for GitLab to mask it", s.place())
	case !v.raw:
		return problem.New(problem.Config, "write the entries of others out in it and set it not to be expanded, or set unmasked: true and unmask it",
			"%s has entries that are put together from other variables ($): GitLab masks JSON only where it puts nothing in", s.place())
	}
	return nil
}

// compact is the document on one line without white space, which GitLab masks.
func compact(doc *dockerconfig.Document) string {
	var text bytes.Buffer
	// Parse has seen to it that it is JSON.
	_ = json.Compact(&text, doc.Bytes())
	return text.String()
}

// Strict says why the docker CLI from 28.3 on does not accept a value of
// DOCKER_AUTH_CONFIG: it takes one object that has "auths" alone, whose entries have
// "auth" alone, the base64 of a username, a colon and a password (docker/cli,
// cli/config/configfile, parseEnvConfig). Of a value that it does not accept it uses
// nothing. Entries with a $ may stand for anything, and pass. The error quotes names,
// and no value.
func Strict(value string) error {
	var accepted struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&accepted); err != nil && !errors.Is(err, io.EOF) {
		return problem.New(problem.Config, "", "%s", unaccepted(value))
	}
	if decoder.More() {
		return problem.New(problem.Config, "", "there is more behind the object")
	}
	for _, key := range slices.Sorted(maps.Keys(accepted.Auths)) {
		why := ""
		switch pair, err := base64.StdEncoding.DecodeString(accepted.Auths[key].Auth); {
		case accepted.Auths[key].Auth == "":
			why = "no auth"
		case strings.Contains(accepted.Auths[key].Auth, "$"):
			continue
		case err != nil:
			why = "an auth that is no base64"
		case bytes.IndexByte(pair, ':') < 1:
			why = "an auth without a username"
		default:
			continue
		}
		return problem.New(problem.Config, "", "entry %q has %s", key, why)
	}
	return nil
}

// unaccepted finds what does not belong into a value. It does not quote the parser's
// errors, which hold parts of the value.
func unaccepted(value string) string {
	var outer map[string]json.RawMessage
	if err := json.NewDecoder(strings.NewReader(value)).Decode(&outer); err != nil {
		return "it is no JSON object"
	}
	for _, name := range slices.Sorted(maps.Keys(outer)) {
		if !strings.EqualFold(name, "auths") {
			return fmt.Sprintf("it has the key %q beside auths", name)
		}
		var entries map[string]map[string]json.RawMessage
		if err := json.Unmarshal(outer[name], &entries); err != nil {
			return "auths is no object of objects"
		}
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			for _, field := range slices.Sorted(maps.Keys(entries[key])) {
				if !strings.EqualFold(field, "auth") {
					return fmt.Sprintf("entry %q has the key %q beside auth", key, field)
				}
			}
		}
	}
	return "it has an auth that is no string, or a key twice"
}
