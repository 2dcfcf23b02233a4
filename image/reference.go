package image

import (
	"errors"
	"path"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Repository is a repository of a registry.
type Repository struct {
	Host credential.Host
	Path string
}

// String is the repository as people write it: host/path.
func (r Repository) String() string { return string(r.Host) + "/" + r.Path }

// MarshalText implements [encoding.TextMarshaler].
func (r Repository) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. See [ParseRepository].
func (r *Repository) UnmarshalText(text []byte) error {
	parsed, err := ParseRepository(string(text))
	if err == nil {
		*r = parsed
	}
	return err
}

// Reference names an image of a repository: by tag, by digest, or by both, of
// which the digest then counts.
type Reference struct {
	Repository
	Tag    string
	Digest digest.Digest
}

// String is the reference as people write it: host/path:tag@digest.
func (r Reference) String() string {
	text := r.Repository.String()
	if r.Tag != "" {
		text += ":" + r.Tag
	}
	if r.Digest != "" {
		text += "@" + r.Digest.String()
	}
	return text
}

// MarshalText implements [encoding.TextMarshaler].
func (r Reference) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. See [ParseReference].
func (r *Reference) UnmarshalText(text []byte) error {
	parsed, err := ParseReference(string(text))
	if err == nil {
		*r = parsed
	}
	return err
}

// Target is what a registry's API is asked for: the digest, or else the tag.
func (r Reference) Target() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

const referenceHint = "write it as host/path:tag or host/path@sha256:..., for example gitea.example.com/admin/api:237c6b8"

// ParseReference reads an image as people and Kubernetes write it, by the rules
// of the docker CLI (distribution/reference): without a host it is of Docker
// Hub, and without tag and digest its tag is "latest". The names that containerd
// and dockerd put before an imageID (docker-pullable://) are dropped.
//
// The error is a [problem.Error] of kind [problem.Usage].
func ParseReference(text string) (Reference, error) {
	if i := strings.Index(text, "://"); i >= 0 {
		text = text[i+len("://"):]
	}
	named, repository, err := parse(text)
	if err != nil {
		return Reference{}, err
	}
	ref := Reference{Repository: repository}
	if tagged, ok := named.(reference.Tagged); ok {
		ref.Tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		ref.Digest = digested.Digest()
	}
	if ref.Tag == "" && ref.Digest == "" {
		ref.Tag = "latest"
	}
	return ref, nil
}

// ParseRepository reads host/path. The error is a [problem.Error] of kind
// [problem.Usage].
func ParseRepository(text string) (Repository, error) {
	named, repository, err := parse(text)
	if err != nil {
		return Repository{}, err
	}
	if !reference.IsNameOnly(named) {
		return Repository{}, problem.New(problem.Usage, "write the repository as host/path, for example gitea.example.com/admin/api", "repository %q has a tag or a digest", text)
	}
	return repository, nil
}

func parse(text string) (reference.Named, Repository, error) {
	named, err := reference.ParseNormalizedNamed(text)
	if err == nil && digest.Digest(text).Validate() == nil {
		err = errors.New("it is a digest without a repository")
	}
	if err != nil {
		return nil, Repository{}, problem.Wrap(err, problem.Usage, referenceHint, "image %q", text)
	}
	host, err := credential.ParseHost(reference.Domain(named))
	if err != nil {
		return nil, Repository{}, err
	}
	if !strings.ContainsAny(string(host), ".:") && host != "localhost" {
		// In capitals it is read as a host, and as we write it it would not be.
		return nil, Repository{}, problem.New(problem.Usage, referenceHint, "image %q: %q is no host of a registry", text, host)
	}
	return named, Repository{Host: host, Path: reference.Path(named)}, nil
}

// Matches says whether a pattern covers the repository: "host/path", in which
// each part of the path is matched as by [path.Match], and "**" as the last part
// stands for one or more parts.
func (r Repository) Matches(pattern string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(r.String(), "/")
	if last := len(want) - 1; want[last] == "**" {
		if len(have) < len(want) {
			return false
		}
		want, have = want[:last], have[:last]
	}
	if len(want) != len(have) {
		return false
	}
	for i, part := range want {
		if ok, err := path.Match(part, have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// Wild says whether a pattern of [Repository.Matches] can cover more than one
// repository.
func Wild(pattern string) bool { return strings.ContainsAny(pattern, "*?[") }

// HostOf is the registry of a pattern of [Repository.Matches], which always begins
// with one. The error is a [problem.Error] of kind [problem.Usage].
func HostOf(pattern string) (credential.Host, error) {
	name, _, ok := strings.Cut(pattern, "/")
	host, err := credential.ParseHost(name)
	// As the docker CLI tells a host from a part of a path.
	named := strings.ContainsAny(name, ".:") || name == "localhost"
	if err != nil || !ok || !named || Wild(name) {
		return "", problem.New(problem.Usage, "write it as gitea.example.com/admin/*", "pattern %q does not begin with a registry's host and a slash", pattern)
	}
	return host, nil
}
