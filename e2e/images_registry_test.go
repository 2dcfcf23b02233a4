package e2e_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "code.gitea.io/sdk/gitea"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/commands"
	"github.com/regkeeper/regkeeper/e2e/peers/cosign"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/image"
)

// yard is a real registry whose images regkeeper keeps in order.
type yard struct {
	place // a repository, with the login of its CI
	t     *testing.T
	// keeper is a regkeeper that has the registry in its configuration.
	keeper *product
	// source and env are the registry's part of that, for another regkeeper.
	source string
	env    []string
	// gitea is the server, if it is one, and account the password of the owner
	// there; storage is the folder of distribution.
	gitea   *gitea.Server
	account string
	storage string
}

// yards are the registries that images are pruned at and copied between. Gitea is
// there by its own API, which a source of Gitea's implies, and as any registry.
var yards = map[string]func(t *testing.T) *yard{
	"embedded": embeddedYard,
	"gitea":    giteaYard,
	"gitea as any": func(t *testing.T) *yard {
		y := giteaYard(t)
		y.static(owner, y.password)
		y.keeper.env = y.env
		y.keeper.configure(registriesText("", y.host(), y.source))
		return y
	},
	"distribution 2": func(t *testing.T) *yard {
		return distributionYard(t, distribution.Options{DeleteEnabled: true})
	},
	"distribution 3": func(t *testing.T) *yard {
		return distributionYard(t, distribution.Options{DeleteEnabled: true, V3: true})
	},
}

// embeddedYard is the embedded registry of a regkeeper that is up.
func embeddedYard(t *testing.T) *yard {
	t.Helper()
	host, err := peers.FreeAddress("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	keeper := newProduct(t, registriesText(fmt.Sprintf("{registry: {listen: %q}, health: {listen: \"127.0.0.1:0\"}}", host), host, "builtin: {}"))
	keeper.up()
	token := decode[createdToken](t, keeper.must("registry", "token", "create", "--name", "ci", "--scope", "pull,push,delete", "-o", "json"))
	y := &yard{place: newPlace(t, host+"/"+owner+"/app", token.User, token.Token), t: t, keeper: keeper}
	y.static(token.User, token.Token)
	return y
}

func giteaYard(t *testing.T) *yard {
	t.Helper()
	server := gitea.Start(t)
	password := server.CreateUser(owner)
	_, token := server.CreateToken(owner, password, "ci-images", "write:package")
	y := &yard{place: newPlace(t, server.Host+"/"+owner+"/app", owner, token), t: t, gitea: server, account: password}
	y.source, y.env = giteaSource(server, owner, "{env: GITEA_PASSWORD}"), []string{"GITEA_PASSWORD=" + password}
	y.keeper = newProduct(t, registriesText("", y.host(), y.source), y.env...)
	return y
}

func distributionYard(t *testing.T, o distribution.Options) *yard {
	t.Helper()
	o.Users = map[string]string{owner: "right"}
	server := distribution.Start(t, o)
	y := &yard{place: newPlace(t, server.Host+"/"+owner+"/app", owner, "right"), t: t, storage: server.Storage}
	y.static(owner, "right")
	y.keeper = newProduct(t, registriesText("", y.host(), y.source), y.env...)
	return y
}

// static makes the login of the CI the one that regkeeper has, too.
func (y *yard) static(username, password string) {
	variable := "PASSWORD_" + strings.NewReplacer(".", "_", ":", "_").Replace(y.host())
	y.source = fmt.Sprintf("static: {username: %s, password: {env: %s}}", username, variable)
	y.env = []string{variable + "=" + password}
}

// text is the configuration.
func (p *product) text() string {
	p.t.Helper()
	text, err := os.ReadFile(p.configPath())
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// registriesText writes a configuration of registries: each host with its source.
func registriesText(serve string, hostsAndSources ...string) string {
	text := "registries:\n"
	for pair := range slices.Chunk(hostsAndSources, 2) {
		text += fmt.Sprintf("  - host: %q\n    source: {%s}\n", pair[0], pair[1])
	}
	if serve != "" {
		text += "serve: " + serve + "\n"
	}
	return text
}

// repo is a repository of the registry beside the first.
func (y *yard) repo(name string) place {
	p := y.place
	p.repository = y.host() + "/" + owner + "/" + name
	return p
}

// form is a way to sign an image, or to attest to it.
type form int

const (
	bundle form = iota
	legacy
	attested
	attestedLegacy
)

var forms = map[form]string{
	bundle: "signature", legacy: "signature from before bundles",
	attested: "attestation", attestedLegacy: "attestation from before bundles",
}

const predicate = `{"tests": "passed"}`

func (p place) sign(t *testing.T, signer *cosign.Signer, f form, digests ...string) {
	t.Helper()
	if len(digests) == 0 {
		return
	}
	refs := p.refs(digests)
	var err error
	switch f {
	case bundle:
		err = signer.Sign(t.Context(), p.config, refs...)
	case legacy:
		err = signer.SignLegacy(t.Context(), p.config, refs...)
	case attested:
		err = signer.Attest(t.Context(), p.config, predicate, refs...)
	case attestedLegacy:
		err = signer.AttestLegacy(t.Context(), p.config, predicate, refs...)
	}
	if err != nil {
		t.Fatalf("%s of %v: %v", forms[f], refs, err)
	}
}

func (p place) verify(t *testing.T, signer *cosign.Signer, f form, digest string) error {
	t.Helper()
	ref := p.repository + "@" + digest
	switch f {
	case bundle:
		return signer.Verify(t.Context(), p.config, ref)
	case legacy:
		return signer.VerifyLegacy(t.Context(), p.config, ref)
	case attested:
		return signer.VerifyAttestation(t.Context(), p.config, ref)
	default:
		return signer.VerifyAttestationLegacy(t.Context(), p.config, ref)
	}
}

func (p place) refs(digests []string) (refs []string) {
	for _, d := range digests {
		refs = append(refs, p.repository+"@"+d)
	}
	return refs
}

// shelf is what was pushed to a repository.
type shelf struct {
	place
	// tags are the digests by tag, signed the forms by digest.
	tags   map[string]string
	signed map[string][]form
}

func newShelf(p place) *shelf {
	return &shelf{place: p, tags: map[string]string{}, signed: map[string][]form{}}
}

// push builds an image and adds it. Each push ends before the next begins: what
// the registry says of their age is their order.
func (s *shelf) push(t *testing.T, builder *buildx.Builder, m buildx.Image, tags ...string) (digest string) {
	t.Helper()
	m.Ref = s.repository + ":" + tags[0]
	for _, tag := range tags[1:] {
		m.Tags = append(m.Tags, s.repository+":"+tag)
	}
	if m.Content == "" {
		m.Content = m.Ref
	}
	digests, err := builder.Push(t.Context(), s.config, m)
	if err != nil {
		t.Fatalf("push %s: %v", m.Ref, err)
	}
	for _, tag := range tags {
		s.tags[tag] = digests[0]
	}
	return digests[0]
}

func (s *shelf) sign(t *testing.T, signer *cosign.Signer, f form, digests ...string) {
	t.Helper()
	s.place.sign(t, signer, f, digests...)
	for _, d := range digests {
		s.signed[d] = append(s.signed[d], f)
	}
}

// child is the manifest of a platform of an index.
func (p place) child(t *testing.T, index, platform string) string {
	t.Helper()
	for _, m := range p.index(t, index).Manifests {
		if m.Platform.String() == platform {
			return m.Digest.String()
		}
	}
	t.Fatalf("%s@%s has no platform %s", p.repository, index, platform)
	return ""
}

// tools are the programs that say whether an image is whole.
type tools struct {
	skopeo, crane *commands.Command
	signer        *cosign.Signer
}

func newTools(t *testing.T) tools {
	t.Helper()
	return tools{commands.Skopeo(t), commands.Crane(t), cosign.New(t)}
}

// pulls wants an image to be pulled with all its platforms, and to have a digest.
func (p place) pulls(t *testing.T, with tools, ref, digest string) {
	t.Helper()
	to := t.TempDir()
	if _, err := with.skopeo.Run(t.Context(), p.config, "copy", "--all", "--src-tls-verify=false", "docker://"+ref, "dir:"+to); err != nil {
		t.Errorf("pull all of %s: %v", ref, err)
		return
	}
	raw, err := os.ReadFile(filepath.Join(to, "manifest.json"))
	if err != nil {
		t.Error(err)
		return
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(raw)); got != digest {
		t.Errorf("%s is %s, want %s", ref, got, digest)
	}
}

// pullsEach wants each platform of an image to be pulled by itself, as nodes do.
func (s *shelf) pullsEach(t *testing.T, with tools, tags ...string) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	for _, tag := range tags {
		for _, platform := range buildx.Platforms {
			ref := s.repository + ":" + tag
			if _, err := with.crane.Run(t.Context(), s.config, "pull", "--platform="+platform, ref, archive); err != nil {
				t.Errorf("pull %s of %s: %v", platform, ref, err)
			}
		}
	}
}

// whole wants tags to lead to what they led to when they were pushed, all of it,
// with what was signed.
func (s *shelf) whole(t *testing.T, with tools, tags ...string) {
	t.Helper()
	seen := map[string]bool{}
	for _, tag := range tags {
		digest := s.tags[tag]
		if got := s.leads(t, tag); got != digest {
			t.Errorf("%s:%s leads to %q, want %s", s.repository, tag, got, digest)
		}
		if seen[digest] {
			continue
		}
		seen[digest] = true
		s.pulls(t, with, s.repository+":"+tag, digest)
		for _, f := range s.signed[digest] {
			if err := s.verify(t, with.signer, f, digest); err != nil {
				t.Errorf("%s of %s:%s: %v", forms[f], s.repository, tag, err)
			}
		}
	}
}

// leads is where a tag or digest leads, as go-containerregistry finds; empty if
// it is not there.
func (p place) leads(t *testing.T, target string) string {
	t.Helper()
	separator := ":"
	if strings.Contains(target, ":") {
		separator = "@"
	}
	ref, err := name.ParseReference(p.repository + separator + target)
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Head(ref, p.login(t)...)
	var answer *transport.Error
	switch {
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return ""
	case err != nil:
		t.Fatal(err)
	}
	return found.Digest.String()
}

// list lists all tags.
func (p place) list(t *testing.T) []string {
	t.Helper()
	repo, err := name.NewRepository(p.repository)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := remote.List(repo, p.login(t)...)
	var answer *transport.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tags)
	return tags
}

// reached are the manifests that tags lead to, these, all below, and what refers
// to any; each with its subject, if it has one.
func (p place) reached(t *testing.T, tags ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	var visit func(digest string)
	visit = func(digest string) {
		if _, ok := all[digest]; ok || digest == "" {
			return
		}
		ref, err := name.NewDigest(p.repository + "@" + digest)
		if err != nil {
			t.Fatal(err)
		}
		found, err := remote.Get(ref, p.login(t)...)
		if err != nil {
			t.Errorf("%s is led to: %v", ref, err)
			return
		}
		var index v1.IndexManifest
		if err := json.Unmarshal(found.Manifest, &index); err != nil {
			t.Fatal(err)
		}
		all[digest] = ""
		if index.Subject != nil {
			all[digest] = index.Subject.Digest.String()
		}
		for _, m := range index.Manifests {
			visit(m.Digest.String())
		}
		for _, m := range p.referrers(t, ref) {
			visit(m.Digest.String())
		}
	}
	for _, tag := range tags {
		visit(p.leads(t, tag))
	}
	return all
}

func (p place) referrers(t *testing.T, of name.Digest) []v1.Descriptor {
	t.Helper()
	referrers, err := remote.Referrers(of, p.login(t)...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := referrers.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return list.Manifests
}

// remains wants the repository to have these tags of images and no other, and
// besides only what belongs to them: of what was reached before, all else must be
// gone.
func (y *yard) remains(t *testing.T, p place, before map[string]string, tags ...string) {
	t.Helper()
	var images, attached []string
	for _, tag := range p.list(t) {
		if _, ok := image.Attached(tag); ok {
			attached = append(attached, tag)
		} else {
			images = append(images, tag)
		}
	}
	slices.Sort(tags)
	if diff := cmp.Diff(tags, images); diff != "" {
		t.Errorf("tags of %s (-want +got):\n%s", p.repository, diff)
	}
	stays := p.reached(t, images...)
	// What BuildKit attests of a platform names that as its subject: it stays
	// with the platform when the index goes.
	for digest, subject := range before {
		if _, ok := stays[subject]; ok {
			stays[digest] = subject
		}
	}
	for _, tag := range attached {
		subject, _ := image.Attached(tag)
		if _, ok := stays[subject.String()]; !ok {
			t.Errorf("%s:%s is left over", p.repository, tag)
		}
	}
	maps.Copy(stays, p.reached(t, attached...))
	for digest := range before {
		if _, ok := stays[digest]; !ok && p.leads(t, digest) != "" {
			t.Errorf("%s@%s is left over", p.repository, digest)
		}
	}
	if y.gitea == nil {
		return
	}
	for _, row := range y.rows(t, p) {
		if _, ok := stays[row]; !ok && strings.HasPrefix(row, "sha256:") {
			t.Errorf("the package has the version %s, and nothing leads to it", row)
		}
	}
}

// rows are the versions that Gitea's package API has of a repository.
func (y *yard) rows(t testing.TB, p place) (versions []string) {
	t.Helper()
	_, path, _ := strings.Cut(p.repository, "/")
	_, wanted, _ := strings.Cut(path, "/")
	client := y.gitea.Client(y.username, y.password)
	for page := 1; ; page++ {
		rows, _, err := client.ListPackages(owner, sdk.ListPackagesOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: 50}})
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			slices.Sort(versions)
			return versions
		}
		for _, row := range rows {
			if row.Name == wanted {
				versions = append(versions, row.Version)
			}
		}
	}
}

// epoch is when the first image of a test was built.
var epoch = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
