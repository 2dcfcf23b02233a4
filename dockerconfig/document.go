// Package dockerconfig owns the config.json document of the Docker clients:
// reading it, merging logins into it, and writing it back with everything else
// in it as it was.
//
// It touches entries under "auths" and nothing more. It refuses to overwrite a
// document that it cannot read, and to choose between logins.
package dockerconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/tailscale/hujson"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// Document is one config.json, held as the exact text that was read. Bytes
// that no method changes come out as they went in: key order, white space,
// unknown keys, number formats and doubled keys included.
type Document struct{ root hujson.Value }

// Parse reads a document. Empty input is an empty document, as it is for the
// docker CLI (cli/config/configfile, LoadFromReader). Comments and trailing
// commas are faults: no client accepts them.
//
// The error is a [problem.Error] of kind [problem.Damaged] that names line and
// column. It never quotes the document, which may hold secrets.
func Parse(text []byte) (*Document, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return &Document{root: hujson.Value{Value: &hujson.Object{}}}, nil
	}
	if err := checkSyntax(text); err != nil {
		return nil, err
	}
	root, err := hujson.Parse(bytes.Clone(text))
	if err != nil {
		return nil, problem.New(problem.Damaged, disk.DamagedHint, "document is no JSON")
	}
	d := &Document{root: root}
	if _, ok := root.Value.(*hujson.Object); !ok {
		return nil, d.wrongKind(&d.root, "the document")
	}
	for _, member := range d.auths() {
		object, ok := member.Value.Value.(*hujson.Object)
		if !ok {
			if member.Value.Value.Kind() == 'n' {
				continue
			}
			return nil, d.wrongKind(&member.Value, `"auths"`)
		}
		for i := range object.Members {
			entry := &object.Members[i]
			if k := entry.Value.Value.Kind(); k != '{' && k != 'n' {
				return nil, d.wrongKind(&entry.Value, "an entry of \"auths\"")
			}
		}
	}
	return d, nil
}

// checkSyntax holds the text to JSON as the clients read it, by their own
// parser, whose errors carry an offset.
func checkSyntax(text []byte) error {
	var discard json.RawMessage
	err := json.Unmarshal(text, &discard)
	if err == nil {
		return nil
	}
	offset := len(text)
	if syntax, ok := err.(*json.SyntaxError); ok { //nolint:errorlint // Unmarshal does not wrap it
		offset = min(max(int(syntax.Offset)-1, 0), len(text))
	}
	line, column := position(text, offset)
	what := "a character that does not belong there"
	if strings.Contains(err.Error(), "unexpected end") {
		line, column = position(text, len(text))
		what = "it ends too early"
	}
	return problem.New(problem.Damaged, disk.DamagedHint, "broken JSON at line %d, column %d: %s", line, column, what)
}

// position counts lines and, in a line, characters, both from one.
func position(text []byte, offset int) (line, column int) {
	before := text[:offset]
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

func (d *Document) wrongKind(v *hujson.Value, name string) error {
	d.root.UpdateOffsets()
	line, column := position(d.root.Pack(), v.StartOffset)
	return problem.New(problem.Damaged, disk.DamagedHint, "%s is no object at line %d, column %d", name, line, column)
}

// Bytes is the document as text.
func (d *Document) Bytes() []byte { return d.root.Pack() }

// Clone is a copy that shares nothing with the document.
func (d *Document) Clone() *Document { return &Document{root: d.root.Clone()} }

// object is the document's outer object. Parse has seen to it that it is one.
func (d *Document) object() *hujson.Object { return d.root.Value.(*hujson.Object) }

// auths lists the outer members that the clients' parser (encoding/json) takes
// for "auths": it ignores case, and merges the values of a doubled name.
func (d *Document) auths() []*hujson.ObjectMember {
	var found []*hujson.ObjectMember
	for i := range d.object().Members {
		if strings.EqualFold(text(d.object().Members[i].Name), "auths") {
			found = append(found, &d.object().Members[i])
		}
	}
	return found
}

func members(object *hujson.Object, name string) []*hujson.ObjectMember {
	var found []*hujson.ObjectMember
	for i := range object.Members {
		if text(object.Members[i].Name) == name {
			found = append(found, &object.Members[i])
		}
	}
	return found
}

// text is a member's name. Names without escapes, nearly all, are taken as they
// stand.
func text(v hujson.Value) string {
	literal, ok := v.Value.(hujson.Literal)
	if !ok {
		return ""
	}
	if n := len(literal); n >= 2 && bytes.IndexByte(literal, '\\') < 0 && utf8.Valid(literal) {
		return string(literal[1 : n-1])
	}
	return literal.String()
}

// entry is the last entry for the key under "auths": the one the clients use.
func (d *Document) entry(key string) *hujson.ObjectMember {
	var last *hujson.ObjectMember
	for _, auths := range d.auths() {
		object, ok := auths.Value.Value.(*hujson.Object)
		if !ok {
			last = nil // null takes back what stands before it
			continue
		}
		if found := members(object, key); len(found) > 0 {
			last = found[len(found)-1]
		}
	}
	return last
}

// Login is the login that the document holds for the registry, under the key
// that regkeeper writes. There is none if the entry holds a token instead of a
// username and password, since clients would send that in their place.
func (d *Document) Login(host credential.Host) (credential.Login, bool) {
	return d.login(host.Key())
}

// Logins lists what clients find under "auths": each key as it is written, in
// the order of the first of its name, with its login. Entries that hold a token
// in place of a username and password are left out.
func (d *Document) Logins() iter.Seq2[string, credential.Login] {
	return func(yield func(string, credential.Login) bool) {
		seen := map[string]bool{}
		for _, auths := range d.auths() {
			object, ok := auths.Value.Value.(*hujson.Object)
			if !ok {
				continue
			}
			for i := range object.Members {
				key := text(object.Members[i].Name)
				if seen[key] {
					continue
				}
				seen[key] = true
				if login, ok := d.login(key); ok && !yield(key, login) {
					return
				}
			}
		}
	}
}

func (d *Document) login(key string) (credential.Login, bool) {
	member := d.entry(key)
	if member == nil {
		return credential.Login{}, false
	}
	var fields struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	}
	if err := json.Unmarshal(member.Value.Pack(), &fields); err != nil {
		return credential.Login{}, false
	}
	if fields.IdentityToken != "" || fields.RegistryToken != "" {
		return credential.Login{}, false
	}
	if fields.Auth == "" {
		return credential.Login{Username: fields.Username, Secret: credential.NewSecret(fields.Password)}, fields.Username != ""
	}
	pair, err := base64.StdEncoding.DecodeString(fields.Auth)
	if err != nil {
		return credential.Login{}, false
	}
	username, password, ok := strings.Cut(string(pair), ":")
	return credential.Login{Username: username, Secret: credential.NewSecret(strings.Trim(password, "\x00"))}, ok && username != ""
}

// Set makes the login the only one under the registry's key, as "auth" alone:
// the one form that every consumer reads. It says whether that changed the
// document.
func (d *Document) Set(host credential.Host, login credential.Login) (changed bool) {
	auth := base64.StdEncoding.EncodeToString([]byte(login.Username + ":" + login.Secret.Reveal()))
	member, only := d.entry(host.Key()), d.count(host.Key()) == 1
	if member != nil && only && hasOnly(member.Value, "auth", auth) {
		return false
	}
	value := hujson.Value{Value: &hujson.Object{}}
	d.insert(&value, 2, "auth", hujson.Value{Value: hujson.String(auth)})

	if member != nil && only {
		member.Value.Value = value.Value
		return true
	}
	d.Remove(host)
	auths := d.auths()
	if n := len(auths); n == 0 || n > 1 && auths[n-1].Value.Value.Kind() == 'n' {
		// A null in last place stays: in its place an object would bring back
		// what it takes back.
		d.insert(&d.root, 0, "auths", hujson.Value{Value: &hujson.Object{}})
		auths = d.auths()
	}
	last := auths[len(auths)-1]
	if _, ok := last.Value.Value.(*hujson.Object); !ok {
		last.Value.Value = &hujson.Object{}
	}
	d.insert(&last.Value, 1, host.Key(), value)
	return true
}

// hasOnly says whether v is an object of one member, with that name and string.
func hasOnly(v hujson.Value, name, value string) bool {
	object, ok := v.Value.(*hujson.Object)
	return ok && len(object.Members) == 1 && text(object.Members[0].Name) == name &&
		object.Members[0].Value.Value.Kind() == '"' && text(object.Members[0].Value) == value
}

func (d *Document) count(key string) (n int) {
	for _, auths := range d.auths() {
		if object, ok := auths.Value.Value.(*hujson.Object); ok {
			n += len(members(object, key))
		}
	}
	return n
}

// Remove takes the registry's entry away, and says whether there was one.
func (d *Document) Remove(host credential.Host) (changed bool) {
	for _, auths := range d.auths() {
		if object, ok := auths.Value.Value.(*hujson.Object); ok {
			changed = remove(object, host.Key()) || changed
		}
	}
	return changed
}

// Helper is the credential helper that clients ask for the registry in place
// of reading "auths". A login delivered behind one is never used. An empty
// helper name under "credHelpers" sends the clients back to "auths"
// (docker CLI: cli/config/configfile, getConfiguredCredentialStore).
func (d *Document) Helper(host credential.Host) (name string, ok bool) {
	var fields struct {
		CredsStore  string            `json:"credsStore"`
		CredHelpers map[string]string `json:"credHelpers"`
	}
	// A value of another type makes the clients fail on their own account.
	_ = json.Unmarshal(d.root.Pack(), &fields)
	if name, ok := fields.CredHelpers[host.Key()]; ok {
		return name, name != ""
	}
	return fields.CredsStore, fields.CredsStore != ""
}

// insert adds a member behind the others, laid out as its neighbours are. In
// package hujson white space behind a last value stands for a trailing comma;
// what precedes the closing brace belongs to the object. The depth is that of
// the object's own members: 0 for the outer object's.
func (d *Document) insert(into *hujson.Value, depth int, name string, value hujson.Value) {
	object := into.Value.(*hujson.Object)
	value.AfterExtra = nil
	member := hujson.ObjectMember{Name: hujson.Value{Value: hujson.String(name)}, Value: value}
	if n := len(object.Members); n > 0 {
		last := &object.Members[n-1]
		member.Name.BeforeExtra = bytes.Clone(last.Name.BeforeExtra)
		member.Value.BeforeExtra = bytes.Clone(last.Value.BeforeExtra)
	} else {
		newline, space := d.indent()
		object.AfterExtra = nil
		member.Value.BeforeExtra = hujson.Extra(space)
		if newline != "" {
			unit := strings.TrimLeft(newline, "\r\n")
			eol := strings.TrimSuffix(newline, unit)
			member.Name.BeforeExtra = hujson.Extra(eol + strings.Repeat(unit, depth+1))
			object.AfterExtra = hujson.Extra(eol + strings.Repeat(unit, depth))
		}
	}
	object.Members = append(object.Members, member)
}

// indent is the white space that the document puts before its outer members
// and behind a colon; the docker CLI's own where there are none.
func (d *Document) indent() (newline, space string) {
	object := d.object()
	if len(object.Members) == 0 {
		return "\n\t", " "
	}
	first := object.Members[0]
	return string(first.Name.BeforeExtra), string(first.Value.BeforeExtra)
}

func remove(object *hujson.Object, name string) (changed bool) {
	for i := len(object.Members) - 1; i >= 0; i-- {
		if text(object.Members[i].Name) != name {
			continue
		}
		object.Members = append(object.Members[:i], object.Members[i+1:]...)
		if n := len(object.Members); n == 0 {
			object.AfterExtra = nil
		} else if i == n {
			object.Members[n-1].Value.AfterExtra = nil
		}
		changed = true
	}
	return changed
}
