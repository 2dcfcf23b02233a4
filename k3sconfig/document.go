// Package k3sconfig owns the registries.yaml document of K3s and RKE2: reading
// it, putting logins into it, and writing it back with everything else in it
// as it was.
//
// It touches "auth" of the hosts it is told to, under "configs", and nothing
// more. It refuses to overwrite a document that it cannot read, or that it
// cannot change without changing anything else.
package k3sconfig

import (
	"bytes"
	"encoding/base64"
	"errors"
	"maps"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	k3syaml "go.yaml.in/yaml/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// The keys of the document (rancher/wharfie, pkg/registries).
const (
	keyConfigs  = "configs"
	keyAuth     = "auth"
	keyUsername = "username"
	keyPassword = "password"
	keyToken    = "identity_token"
)

// What is held in memory is bounded: a file may be another user's. The largest
// real documents are far below.
const (
	maxSize = 1 << 20
	// maxDepth bounds how deep brackets and dashes nest.
	maxDepth = 100
	// maxShared bounds in bytes what aliases repeat.
	maxShared = 4 << 20
)

// Document is one registries.yaml, held as the exact text that was read. A
// change replaces the bytes of a login; all others come out as they went in:
// order, white space, comments, quotes and unknown keys included.
type Document struct {
	text []byte
	// root is nil for a document without content.
	root ast.Node
	// spans are where the tokens stand, without the white space around them.
	spans   map[*token.Token]span
	anchors map[string]ast.Node
	// read is what K3s reads, by the parser that it reads with: it has rules of
	// its own for numbers, merges and aliases.
	read registries
}

// registries is the part of the document that is about logins (rancher/wharfie,
// pkg/registries).
type registries struct {
	Configs map[string]struct {
		Auth *auth `yaml:"auth"`
	} `yaml:"configs"`
}

type auth struct {
	Username      string `yaml:"username"`
	Password      string `yaml:"password"`
	Auth          string `yaml:"auth"`
	IdentityToken string `yaml:"identity_token"`
}

var _ disk.Document = (*Document)(nil)

// span are the bytes from start up to end.
type span struct{ start, end int }

// Parse reads a document. Input without content is an empty document.
//
// The error is a [problem.Error] of kind [problem.Damaged] that names line and
// column. It never quotes the document, which may hold secrets.
func Parse(text []byte) (d *Document, err error) {
	defer func() {
		// The file may be anyone's, and a text that the parser was not made
		// for must not end the program.
		if recover() != nil {
			d, err = nil, damaged("broken YAML")
		}
	}()
	if len(text) > maxSize {
		return nil, damaged("document is larger than %d KiB", maxSize>>10)
	}
	if !utf8.Valid(text) {
		return nil, damaged("document is no UTF-8")
	}
	if at := bytes.IndexFunc(bytes.ReplaceAll(text, []byte("\r\n"), []byte(" \n")), disputed); at >= 0 {
		return nil, damaged("document has a line break that not every parser takes for one at line %d", 1+bytes.Count(text[:at], []byte("\n")))
	}
	d = &Document{text: bytes.Clone(text), anchors: map[string]ast.Node{}}
	content := bytes.TrimPrefix(text, []byte("\ufeff"))
	tokens := lexer.Tokenize(string(content))
	if err := checkDepth(tokens); err != nil {
		return nil, err
	}
	if err := d.locate(tokens, len(text)-len(content)); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, broken(err)
	}
	if len(file.Docs) > 1 {
		return nil, damaged("there is more than one document at line %d", position(file.Docs[1]))
	}
	if len(file.Docs) == 1 {
		if body := file.Docs[0].Body; body != nil && body.Type() != ast.NullType && body.Type() != ast.CommentType {
			d.root = body
		}
	}
	if d.root == nil {
		return d, nil
	}
	if err := d.checkAliases(); err != nil {
		return nil, err
	}
	if _, ok := direct(d.root); !ok {
		return nil, at(d.root, "the document is no mapping")
	}
	if err := k3syaml.Unmarshal(text, &d.read); err != nil {
		// It quotes what it cannot take for what it should be.
		return nil, damaged("K3s cannot read the document%s", line.FindString(err.Error()))
	}
	return d, nil
}

// disputed are the line breaks of YAML 1.1, by which K3s reads, that later
// versions do not have, and one that has gone out of use.
func disputed(r rune) bool { return r == '\r' || r == '\u0085' || r == '\u2028' || r == '\u2029' }

// line is where K3s's parser has a fault.
var line = regexp.MustCompile(`[: ] line \d+`)

func damaged(format string, args ...any) error {
	return problem.New(problem.Damaged, disk.DamagedHint, format, args...)
}

// broken is what the parser says, without its words: they quote the document.
func broken(err error) error {
	var detail yaml.Error
	if errors.As(err, &detail) && detail.GetToken() != nil && detail.GetToken().Position != nil {
		at := detail.GetToken().Position
		return damaged("broken YAML at line %d, column %d: look at the indentation, quotes and colons there", at.Line, at.Column)
	}
	return damaged("broken YAML")
}

func at(node ast.Node, what string) error {
	position := node.GetToken().Position
	return damaged("%s at line %d, column %d", what, position.Line, position.Column)
}

// position is the line on which a document begins.
func position(doc *ast.DocumentNode) int {
	if doc.Start != nil {
		return doc.Start.Position.Line
	}
	return doc.GetToken().Position.Line
}

// checkDepth refuses what would have the parser call itself too often.
func checkDepth(tokens token.Tokens) error {
	brackets, dashes, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
			dashes++
		}
		if brackets > maxDepth || dashes > maxDepth {
			return damaged("document nests too deep at line %d", line)
		}
	}
	return nil
}

// locate finds the tokens in the text. The lexer cuts it into pieces that make
// it up again but for white space, and but for escapes between double quotes;
// a text for which that does not hold could not be changed without loss.
func (d *Document) locate(tokens token.Tokens, from int) error {
	d.spans = make(map[*token.Token]span, len(tokens))
	rest := d.text[from:]
	for _, t := range tokens {
		rest = bytes.TrimLeft(rest, white)
		piece := strings.Trim(t.Origin, white)
		if t.Type == token.DoubleQuoteType {
			piece = quoted(rest)
		}
		if !bytes.HasPrefix(rest, []byte(piece)) || t.Type == token.DoubleQuoteType && piece == "" {
			return damaged("document cannot be taken apart at line %d", t.Position.Line)
		}
		start := len(d.text) - len(rest)
		d.spans[t] = span{start, start + len(piece)}
		rest = rest[len(piece):]
	}
	if len(bytes.Trim(rest, white)) > 0 {
		return damaged("document cannot be taken apart at its end")
	}
	return nil
}

// white is what separates tokens.
const white = " \t\r\n"

// quoted is the text in double quotes at the beginning of a text, with them.
func quoted(text []byte) string {
	if len(text) == 0 || text[0] != '"' {
		return ""
	}
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return string(text[:i+1])
		}
	}
	return ""
}

// checkAliases notes the anchors, and refuses aliases that multiply.
func (d *Document) checkAliases() error {
	var aliases []*ast.AliasNode
	ast.Walk(visit(func(node ast.Node) {
		switch n := node.(type) {
		case *ast.AnchorNode:
			if n.Name != nil {
				d.anchors[n.Name.GetToken().Value] = n.Value
			}
		case *ast.AliasNode:
			aliases = append(aliases, n)
		}
	}), d.root)
	shared := 0
	for _, alias := range aliases {
		target := d.anchors[aliasName(alias)]
		if target == nil {
			return at(alias, "there is no anchor for the alias")
		}
		within, _ := d.extent(target)
		shared += within.end - within.start
		nested := false
		ast.Walk(visit(func(node ast.Node) {
			_, is := node.(*ast.AliasNode)
			nested = nested || is
		}), target)
		if nested || shared > maxShared {
			return at(alias, "aliases repeat too much")
		}
	}
	return nil
}

func aliasName(alias *ast.AliasNode) string {
	if alias.Value == nil {
		return ""
	}
	return alias.Value.GetToken().Value
}

// visit calls a function for each node.
type visit func(ast.Node)

// Visit is [ast.Visitor].
func (v visit) Visit(node ast.Node) ast.Visitor {
	v(node)
	return v
}

// Bytes is the document as text.
func (d *Document) Bytes() []byte { return d.text }

// Key is the host's key under "configs": that of the endpoint, which is the
// host itself for all but Docker Hub (k3s-io/k3s#12561).
func Key(host credential.Host) string { return host.API() }

// Login is the login that the document holds for the registry, under the key
// that regkeeper writes. Of what may stand there, containerd takes the username
// and password first, then the identity token, whose username is empty, then
// "auth" (containerd, internal/cri/server/images, ParseAuth).
func (d *Document) Login(host credential.Host) (credential.Login, bool) {
	switch fields := d.fields(host); {
	case fields.Username != "":
		return credential.Login{Username: fields.Username, Secret: credential.NewSecret(fields.Password)}, true
	case fields.IdentityToken != "":
		return credential.Login{Secret: credential.NewSecret(fields.IdentityToken)}, true
	case fields.Auth != "":
		pair, err := base64.StdEncoding.DecodeString(fields.Auth)
		if err != nil {
			return credential.Login{}, false
		}
		username, password, ok := strings.Cut(string(pair), ":")
		return credential.Login{Username: username, Secret: credential.NewSecret(strings.Trim(password, "\x00"))}, ok
	}
	return credential.Login{}, false
}

// fields are what K3s reads under the host's "auth".
func (d *Document) fields(host credential.Host) auth {
	if fields := d.read.Configs[Key(host)].Auth; fields != nil {
		return *fields
	}
	return auth{}
}

// Set makes the login the only one under the registry's key, as username and
// password. It says whether that changed the document. The error is a
// [problem.Error] of kind [problem.Damaged] if the document is written in a
// way in which something else would change too, and of kind [problem.Config]
// for a login that it cannot hold; it is then as it was.
func (d *Document) Set(host credential.Host, login credential.Login) (changed bool, err error) {
	username, password := quote(login.Username), quote(login.Secret.Reveal())
	if !utf8.ValidString(login.Username) || !utf8.ValidString(login.Secret.Reveal()) {
		return false, problem.New(problem.Config, "choose a password that is text", "the login for %s is no UTF-8, which YAML cannot hold", host)
	}
	if login.Username == "" {
		return false, problem.New(problem.Config, "give the login a username", "the login for %s has no username, without which containerd takes none", host)
	}
	want := auth{Username: login.Username, Password: login.Secret.Reveal()}
	if d.fields(host) == want {
		return false, nil
	}
	e := editor{Document: d, username: username, password: password}
	e.set(keyConfigs, Key(host), keyAuth)
	if e.blocked {
		return false, d.entangled(host)
	}
	next, err := Parse(e.apply())
	if err != nil {
		return false, d.entangled(host)
	}
	if next.fields(host) != want || !reflect.DeepEqual(d.others(host), next.others(host)) {
		return false, d.entangled(host)
	}
	*d = *next
	return true, nil
}

// entangled says that the host's login cannot be changed alone.
func (d *Document) entangled(host credential.Host) error {
	return problem.New(problem.Damaged,
		`write it there as plain lines, without anchors or aliases: configs: then "`+Key(host)+`": then auth: then username: and password:`,
		"the login for %s cannot be changed without changing something else", host)
}

// others is all that the document says but the host's login.
func (d *Document) others(host credential.Host) any {
	if d.root == nil {
		return nil
	}
	var all any
	if err := yaml.NodeToValue(d.root, &all); err != nil {
		return err.Error()
	}
	return without(all, keyConfigs, Key(host), keyAuth)
}

// without takes the login away at the end of the path, and what is empty then.
func without(value any, path ...string) any {
	shared, ok := value.(map[string]any)
	if !ok && len(path) > 0 {
		return value
	}
	object := maps.Clone(shared) // an alias may share it
	if len(path) == 0 {
		for _, key := range []string{keyUsername, keyPassword, keyAuth, keyToken} {
			delete(object, key)
		}
	} else if member, has := object[path[0]]; has {
		if rest := without(member, path[1:]...); rest == nil {
			delete(object, path[0])
		} else {
			object[path[0]] = rest
		}
	}
	if len(object) == 0 {
		return nil
	}
	return object
}

func keyText(entry *ast.MappingValueNode) string {
	switch key := entry.Key.(type) {
	case *ast.StringNode:
		return key.Value
	case nil:
		return ""
	}
	return entry.Key.GetToken().Value
}

func null(node ast.Node) bool { return node == nil || node.Type() == ast.NullType }
