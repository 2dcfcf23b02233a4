// Package cosign owns the real command that signs images and verifies their
// signatures, with a key pair of its own.
//
// It refuses Sigstore's public services: there is no certificate, no
// transparency log and no time stamp, only the key.
package cosign

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is the binary of cosign.
var Tool = build.Tool{
	Name:    "cosign",
	Package: "github.com/sigstore/cosign/v3/cmd/cosign",
	Module:  "cosign/build",
}

// PredicateType is the type of the attestations that [Signer.Attest] makes.
const PredicateType = "https://regkeeper.test/predicate/v1"

// legacy is for what cosign made before it made bundles.
const legacy = "--new-bundle-format=false"

// signatureType is what a bundle with a signature says it holds.
const signatureType = `"type":"https://sigstore.dev/cosign/sign/v1"`

// Signer signs and verifies with one key pair. Images are named by digest, as
// host/repository@sha256:...; what it signs is the manifest of that name, not
// the manifests below an index. Each call takes the logins of one config.json,
// which must have that name, or none. The errors hold what cosign said.
type Signer struct {
	Version   string
	PublicKey string // file of the public key, PEM

	bin, dir string
	password string
}

// New makes a key pair.
func New(t testing.TB) *Signer {
	t.Helper()
	bin := build.Go(t, Tool)
	s := &Signer{Version: bin.Version, bin: bin.Path, dir: t.TempDir(), password: rand.Text()}
	s.PublicKey = filepath.Join(s.dir, "cosign.pub")
	if _, err := s.run(t.Context(), "", "generate-key-pair"); err != nil {
		t.Fatalf("generate key pair: %v", err)
	}
	return s
}

// Sign adds to each image a bundle (application/vnd.dev.sigstore.bundle.v0.3)
// that refers to it. A registry without referrers gets the index of the tag
// sha256-<digest> instead (OCI distribution spec 1.1, "Referrers Tag Schema").
func (s *Signer) Sign(ctx context.Context, configJSONPath string, refs ...string) error {
	return s.sign(ctx, configJSONPath, "sign", nil, refs)
}

// SignLegacy adds to each image a signature of the kind from before bundles:
// the manifest of the tag sha256-<digest>.sig, which does not name the image.
func (s *Signer) SignLegacy(ctx context.Context, configJSONPath string, refs ...string) error {
	return s.sign(ctx, configJSONPath, "sign", []string{legacy}, refs)
}

// Attest adds to each image a bundle with an attestation of [PredicateType];
// predicate is its JSON.
func (s *Signer) Attest(ctx context.Context, configJSONPath, predicate string, refs ...string) error {
	return s.attest(ctx, configJSONPath, predicate, nil, refs)
}

// AttestLegacy adds the attestation to the manifest of the tag
// sha256-<digest>.att.
func (s *Signer) AttestLegacy(ctx context.Context, configJSONPath, predicate string, refs ...string) error {
	return s.attest(ctx, configJSONPath, predicate, []string{legacy}, refs)
}

// Verify wants each image to have a bundle with a signature of this key pair.
//
// Cosign itself is content with less: with a bundle that holds any attestation,
// and when there is no bundle with a signature from before bundles.
func (s *Signer) Verify(ctx context.Context, configJSONPath string, refs ...string) error {
	for _, ref := range refs {
		out, err := s.verify(ctx, configJSONPath, "verify", ref)
		if err != nil {
			return err
		}
		if !strings.Contains(out, signatureType) {
			return fmt.Errorf("verify %s: cosign found no bundle with a signature: %s", ref, out)
		}
	}
	return nil
}

// VerifyLegacy wants each image to have a signature of the kind that
// [Signer.SignLegacy] makes.
func (s *Signer) VerifyLegacy(ctx context.Context, configJSONPath string, refs ...string) error {
	for _, ref := range refs {
		if _, err := s.verify(ctx, configJSONPath, "verify", ref, legacy); err != nil {
			return err
		}
	}
	return nil
}

// VerifyAttestation wants each image to have a bundle with an attestation of
// this key pair. For an image that has no bundle of any kind, cosign looks for
// an attestation from before bundles.
func (s *Signer) VerifyAttestation(ctx context.Context, configJSONPath string, refs ...string) error {
	for _, ref := range refs {
		if _, err := s.verify(ctx, configJSONPath, "verify-attestation", ref, "--type="+PredicateType); err != nil {
			return err
		}
	}
	return nil
}

// VerifyAttestationLegacy wants each image to have an attestation of the kind
// that [Signer.AttestLegacy] makes.
func (s *Signer) VerifyAttestationLegacy(ctx context.Context, configJSONPath string, refs ...string) error {
	for _, ref := range refs {
		if _, err := s.verify(ctx, configJSONPath, "verify-attestation", ref, "--type="+PredicateType, legacy); err != nil {
			return err
		}
	}
	return nil
}

func (s *Signer) sign(ctx context.Context, configJSONPath, verb string, more, refs []string) error {
	_, err := s.run(ctx, configJSONPath, slices.Concat([]string{
		verb, "--yes", "--key=" + filepath.Join(s.dir, "cosign.key"),
		"--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry",
	}, more, refs)...)
	return err
}

func (s *Signer) attest(ctx context.Context, configJSONPath, predicate string, more, refs []string) error {
	file, err := os.CreateTemp(s.dir, "predicate-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(predicate)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write predicate: %w", err)
	}
	return s.sign(ctx, configJSONPath, "attest", append([]string{"--predicate=" + file.Name(), "--type=" + PredicateType}, more...), refs)
}

func (s *Signer) verify(ctx context.Context, configJSONPath, verb, ref string, more ...string) (string, error) {
	return s.run(ctx, configJSONPath, slices.Concat([]string{
		verb, "--key=" + s.PublicKey, "--insecure-ignore-tlog", "--allow-http-registry",
	}, more, []string{ref})...)
}

// run runs cosign with nothing of the caller's COSIGN_* and SIGSTORE_*
// variables. The password is in its environment only.
func (s *Signer) run(ctx context.Context, configJSONPath string, args ...string) (string, error) {
	if configJSONPath == "" {
		configJSONPath = filepath.Join(s.dir, "config.json") // there is none
	}
	cmd := exec.Command(s.bin, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir,
		"DOCKER_CONFIG=" + filepath.Dir(configJSONPath), "COSIGN_PASSWORD=" + s.password,
	}
	return process.Output(ctx, cmd)
}
